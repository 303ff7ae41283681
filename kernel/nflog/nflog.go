package nflog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// Of include/uapi/linux/netfilter/nfnetlink_log.h.
const (
	msgPacket = unix.NFNL_SUBSYS_ULOG << 8   // NFULNL_MSG_PACKET
	msgConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1 // NFULNL_MSG_CONFIG

	cfgCommand = 1 // NFULA_CFG_CMD
	cfgMode    = 2 // NFULA_CFG_MODE
	cfgTimeout = 4 // NFULA_CFG_TIMEOUT
	cfgFlags   = 6 // NFULA_CFG_FLAGS

	commandBind  = 1 // NFULNL_CFG_CMD_BIND
	copyPacket   = 2 // NFULNL_COPY_PACKET
	flagSequence = 1 // NFULNL_CFG_F_SEQ

	attrTimestamp = 3  // NFULA_TIMESTAMP
	attrIn        = 4  // NFULA_IFINDEX_INDEV
	attrOut       = 5  // NFULA_IFINDEX_OUTDEV
	attrPayload   = 9  // NFULA_PAYLOAD
	attrPrefix    = 10 // NFULA_PREFIX
	attrSequence  = 12 // NFULA_SEQ
)

const (
	// receiveBuffer is how many bytes may wait, counted as the kernel does, with its own structures.
	receiveBuffer = 1 << 20
	// copyLength is how much of a packet is copied at most; a rule's own length may be less. All headers are in there.
	copyLength = 256
	// gather is how long the kernel waits for more packets, in 1/100 s.
	gather = 10
)

// Packet is what was copied of a packet.
type Packet struct {
	Header
	Prefix  string    // of the rule
	In, Out uint32    // indexes of the interfaces; 0 where there is none
	Time    time.Time // when the kernel received it; zero when it did not note that, such as of packets of this host's own
}

// Reader receives the packets of one group.
type Reader struct {
	listener *nfnl.Listener
	next     uint32 // number of the next packet
	lost     atomic.Uint64
}

// Open becomes the reader of the group in the network namespace of the calling thread. The error is EPERM when the group has another reader (or
// the process lacks NET_ADMIN), and wraps kernel.ErrUnsupported when the kernel has no nfnetlink_log.
func Open(group uint16) (*Reader, error) {
	config := func(fill func(*nfnl.Attrs)) nfnl.Message {
		m := nfnl.Message{Type: msgConfig, Group: group}
		fill(&m.Attrs)
		return m
	}
	listener, err := nfnl.Subscribe(receiveBuffer,
		config(func(a *nfnl.Attrs) { a.Bytes(cfgCommand, []byte{commandBind}) }),
		config(func(a *nfnl.Attrs) {
			a.Bytes(cfgMode, append(binary.BigEndian.AppendUint32(nil, copyLength), copyPacket, 0))
			a.Uint32(cfgTimeout, gather)
			a.Uint16(cfgFlags, flagSequence)
		}))
	switch {
	case errors.Is(err, unix.EINVAL): // to a subsystem that it does not have (nfnetlink_rcv_msg)
		return nil, fmt.Errorf("read NFLOG group %d: %w: %w", group, kernel.ErrUnsupported, err)
	case err != nil:
		return nil, fmt.Errorf("read NFLOG group %d: %w", group, err)
	}
	return &Reader{listener: listener}, nil
}

// Close gives the group up; Run returns.
func (r *Reader) Close() error { return r.listener.Close() }

// Lost returns how many packets were not copied so far because there were too many of them, as far as a later one has told. It may be called from any goroutine.
func (r *Reader) Lost() uint64 { return r.lost.Load() }

// Run calls each for every packet until ctx is done, and returns ctx.Err() then.
func (r *Reader) Run(ctx context.Context, each func(Packet)) error {
	return r.listener.Run(ctx, func(m nfnl.Message) {
		if m.Type != msgPacket {
			return // the end of what was gathered
		}
		p, number, err := decode(m.Attrs)
		if err != nil {
			return
		}
		r.lost.Add(uint64(number - r.next))
		r.next = number + 1
		each(p)
	}, func() {}) // that the buffer was full: the numbers tell how many it were
}

// decode reads one message. Its number counts up from 0, and around.
func decode(b []byte) (p Packet, number uint32, err error) {
	for a, err := range nfnl.Each(b) {
		if err != nil {
			return Packet{}, 0, err
		}
		switch a.Type {
		case attrTimestamp:
			if len(a.Value) == 16 {
				p.Time = time.Unix(int64(binary.BigEndian.Uint64(a.Value)), 1000*int64(binary.BigEndian.Uint64(a.Value[8:])))
			}
		case attrIn:
			p.In = a.Uint32()
		case attrOut:
			p.Out = a.Uint32()
		case attrPayload:
			p.Header = parse(a.Value)
		case attrPrefix:
			p.Prefix = a.String()
		case attrSequence:
			number = a.Uint32()
		}
	}
	return p, number, nil
}
