package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/twill-cni/twill/store/storetest"
)

func TestProbed(t *testing.T) {
	const before = 10
	for _, tc := range []struct {
		name  string
		known string // the mark of the epoch
		got   reading
		err   error
		want  bool
		after string
	}{
		{"first", "", reading{10, "a"}, nil, false, "a"},
		{"goes on", "a", reading{11, "a"}, nil, false, "a"},
		{"revisions went back", "a", reading{9, "a"}, nil, true, "a"},
		{"revisions went back, without marks", "", reading{9, ""}, nil, true, ""},
		{"another that overtook", "a", reading{11, "b"}, nil, true, "b"},
		{"the mark may no longer be read", "a", reading{11, ""}, nil, false, "a"},
		{"no answer", "a", reading{}, errors.New("no answer"), false, "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var h health
			h.init(time.Minute)
			h.answered(before)
			h.history = tc.known
			epoch := h.epoch
			if got := h.probed(before, tc.got, tc.err); got != tc.want || h.history != tc.after || (epoch.Err() != nil) != tc.want {
				t.Errorf("new epoch: %t, mark %q, old epoch: %v; want %t, %q", got, h.history, epoch.Err(), tc.want, tc.after)
			}
		})
	}
}

// A wiped etcd that has more revisions than the old one by the time that it is reached is known by its missing mark, and by the mark of
// another node.
func TestWipedAndOvertaken(t *testing.T) {
	for _, marked := range []bool{false, true} {
		t.Run(fmt.Sprintf("marked=%t", marked), func(t *testing.T) {
			h := newHarness(t, nil)
			h.SetNetwork(storetest.Config4)
			s := h.open()
			r := h.register(s, 1)
			want := r.Lease().Subnets().Key()
			storetest.Eventually(t, 10*time.Second, "the mark", func() bool {
				s.health.mu.Lock()
				defer s.health.mu.Unlock()
				return s.health.history != ""
			})
			h.renew()
			h.SetNetwork(storetest.Config4)
			if marked {
				h.put("registry/history", "somebody else's")
			}
			for range 2 * s.health.seen() {
				h.put("elsewhere", "")
			}
			h.mend()
			storetest.Eventually(t, 10*time.Second, "the record in the new etcd", func() bool { return h.record(want) != nil })
		})
	}
}

// A node without the right to the mark goes by revisions, and works.
func TestMarkForbidden(t *testing.T) {
	for _, readable := range []bool{false, true} {
		t.Run(fmt.Sprintf("readable=%t", readable), func(t *testing.T) {
			h := newHarness(t, func(h *harness) {
				h.prepare = func(c *embed.Config) { c.BcryptCost = 4 } // the least
			})
			h.SetNetwork(storetest.Config4)
			h.enableAuth("secret")
			all := DefaultPrefix + "/"
			_, err := h.client.RoleRevokePermission(h.ctx(), "twill", all, clientv3.GetPrefixRangeEnd(all))
			h.must(err)
			rights := map[string]authpb.Permission_Type{"config": clientv3.PermRead, "subnets/": clientv3.PermReadWrite, "nodes/": clientv3.PermRead}
			if readable {
				rights["registry/"] = clientv3.PermRead
			}
			for key, right := range rights {
				_, err := h.client.RoleGrantPermission(h.ctx(), "twill", all+key, clientv3.GetPrefixRangeEnd(all+key), clientv3.PermissionType(right))
				h.must(err)
			}
			file := filepath.Join(h.dir, "password")
			h.must(os.WriteFile(file, []byte("secret"), 0o600))
			h.config = func(c *Config) { c.Username, c.PasswordFile = "node", file }
			s := h.open()
			r := h.register(s, 1)
			h.eventually("health", func() bool { return s.Health() == nil && s.health.seen() > 0 })
			if h.record(r.Lease().Subnets().Key()) == nil || s.health.history != "" {
				t.Errorf("record %v, mark %q", h.record(r.Lease().Subnets().Key()), s.health.history)
			}
		})
	}
}
