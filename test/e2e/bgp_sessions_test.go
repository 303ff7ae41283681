package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// says waits until a peer's last error is one that holds the words, the session being down.
func says(t *testing.T, l *lab.Lab, n *lab.Node, name string, words ...string) {
	t.Helper()
	within(t, enough, func() error {
		s, err := peerState(t, l, n, name)
		if err != nil {
			return err
		}
		for _, w := range words {
			if s.Established() || !strings.Contains(s.LastError, w) {
				return fmt.Errorf("%s is %s, its last error %q; want one with %q", name, s.State, s.LastError, w)
			}
		}
		return nil
	})
}

// comesUp waits until the session with a peer is up.
func comesUp(t *testing.T, l *lab.Lab, n *lab.Node, name string) {
	t.Helper()
	within(t, 2*enough, func() error {
		s, err := peerState(t, l, n, name)
		if err == nil && !s.Established() {
			err = fmt.Errorf("%s is %s: %s", name, s.State, s.LastError)
		}
		return err
	})
}

// A session that cannot be says why, and disturbs no other; when its cause is gone, it comes up.
func TestBGPSessionsThatCannotBe(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 2, PodsPerNode: 1})
	node := l.Nodes()[0]
	key := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(key, []byte("wrong\n"), 0o644))

	r := router{as: rackAS, nodes: []*lab.Node{node}, announces: true}
	with := func(options string) router { r := r; r.options = options; return r }
	good, frozen, md5, ttl, as := outsider(t, l, "good"), outsider(t, l, "frozen"), outsider(t, l, "md5"), outsider(t, l, "ttl"), outsider(t, l, "as")
	r.bird(t, good)
	with("password \"right\";").bird(t, md5)
	far, other, suspended := r.bird(t, ttl), r.bird(t, as), r.bird(t, frozen)
	var config strings.Builder
	fmt.Fprintln(&config, "peers:")
	for _, p := range []struct {
		n    *lab.Node
		as   int
		more string
	}{{good, rackAS, ""}, {frozen, rackAS, ""}, {md5, rackAS, ", passwordFile: " + key}, {ttl, rackAS, ", ttlSecurity: 1"}, {as, rackAS + 1, ""}} {
		fmt.Fprintf(&config, "- {name: %s, address: %s, as: %d%s}\n", p.n.Name, address(t, p.n, false), p.as, p.more)
	}
	must(t, node.SetBGPConfig([]byte(config.String())))
	comesUp(t, l, node, "good")
	comesUp(t, l, node, "frozen")
	suspended.Signal(syscall.SIGSTOP)
	began := time.Now()

	within(t, enough, func() error {
		text, err := node.DaemonLog()
		if err == nil && (!strings.Contains(text, key) || !strings.Contains(text, "0644")) {
			err = errors.New("the log does not name the file that others can read")
		}
		return err
	})
	must(t, os.Chmod(key, 0o600))
	says(t, l, node, "as", "bad peer as")
	says(t, l, node, "ttl", "without TTL security looks like this")
	says(t, l, node, "md5", "timeout; a neighbour with another password looks like this")
	must(t, os.WriteFile(key, []byte("right\n"), 0o600))
	far.Configure(with("ttl security on;").birdConf(t, ttl))
	other.Configure(router{as: rackAS + 1, nodes: r.nodes}.birdConf(t, as))
	for _, name := range []string{"as", "ttl", "md5"} {
		comesUp(t, l, node, name)
	}
	says(t, l, node, "frozen", "hold timer expired")
	t.Logf("hold timer expired after %v", time.Since(began).Round(time.Millisecond))
	suspended.Signal(syscall.SIGCONT)
	comesUp(t, l, node, "frozen")

	for _, name := range []string{"good", "node node2"} {
		if s, err := peerState(t, l, node, name); err != nil || !s.Established() || s.Flaps > 0 {
			t.Errorf("%s was disturbed: %+v, %v", name, s, err)
		}
	}
	must(t, reachable(t, l))
	if text, err := node.DaemonLog(); err != nil || strings.Contains(text, "right") || strings.Contains(text, "wrong") {
		t.Errorf("the log holds a password (%v)", err)
	}
}
