package gobgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// levelTrace is for the library's own debugging, which has a record for each message.
const levelTrace = slog.LevelDebug - 4

// diagnosis is what a record of the library's log says about a neighbour, taken from its attributes.
type diagnosis struct {
	text          string
	notification  bool // a NOTIFICATION was sent or received
	code, subcode uint8
	timeout       bool // an attempt to connect was not answered
	connected     bool // an attempt to connect was, and an OPEN was sent; this has no text
	// restarting: the session is lost and its routes are kept. It has no text, and is told for the lock that whoever is told takes: the
	// library marks the routes as stale right after this, by the same goroutine, and has read the mark without a lock when it told of
	// them (toPathApiUtil in WatchEvent). Each path that it tells of goes through sessions.heard, so the lock puts one after the other.
	restarting bool
}

// tap is the handler of the library's log. It passes records on, two levels lower since the package tells ups and downs itself, and it picks up
// what the library says nowhere else: why a connection does not come up, and which NOTIFICATION it sent.
type tap struct {
	next slog.Handler
	peer netip.Addr // of the logger
	tell func(peer netip.Addr, d diagnosis)
}

func newTap(log *slog.Logger, tell func(netip.Addr, diagnosis)) *tap {
	return &tap{next: log.Handler(), tell: tell}
}

// Enabled is always true: the attributes are needed at each level.
func (t *tap) Enabled(context.Context, slog.Level) bool { return true }

func (t *tap) Handle(ctx context.Context, r slog.Record) error {
	peer := t.peer
	var d diagnosis
	var failure, said string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "Key":
			if addr, err := netip.ParseAddr(a.Value.String()); err == nil {
				peer = addr
			}
		case "Error":
			failure = a.Value.String()
		case "Communicated-Reason":
			said = a.Value.String()
		case "Code":
			if a.Value.Kind() == slog.KindInt64 {
				d.code, d.notification = uint8(a.Value.Int64()), true
			}
		case "Subcode":
			if a.Value.Kind() == slog.KindInt64 {
				d.subcode = uint8(a.Value.Int64())
			}
		}
		return true
	})
	switch {
	case d.notification:
		d.text = fmt.Sprintf("%s: %s", r.Message, packet.NewNotificationErrorCode(d.code, d.subcode))
		if said != "" {
			d.text += ": " + said
		}
	case failure != "":
		d.text = r.Message + ": " + failure
		d.timeout = strings.HasSuffix(failure, os.ErrDeadlineExceeded.Error()) // the library logs the text alone
	}
	d.connected = r.Message == "outgoing connection established"
	d.restarting = r.Message == "peer graceful restart"
	if (d.text != "" || d.connected || d.restarting) && peer.IsValid() {
		t.tell(peer, d)
	}

	level := slog.LevelDebug
	if r.Level < slog.LevelInfo {
		level = levelTrace
	}
	if !t.next.Enabled(ctx, level) {
		return nil
	}
	r.Level = level
	return t.next.Handle(ctx, r)
}

func (t *tap) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *t
	n.next = t.next.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key != "Key" {
			continue
		}
		if addr, err := netip.ParseAddr(a.Value.String()); err == nil {
			n.peer = addr
		}
	}
	return &n
}

func (t *tap) WithGroup(name string) slog.Handler {
	n := *t
	n.next = t.next.WithGroup(name)
	return &n
}
