package policy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/store"
)

// No sync waits for people who look at pods, and people do not wait for a sync longer than they want to.
func TestQuestionsAndSyncsDoNotWait(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(shop(), pod("node-b", "client", "10.1.2.2", "role=client"), pod("node-b", "other", "10.1.2.3"))
	r.settled()
	i := NewInspector(r.Enforcer, nil)
	ended, end := context.WithCancel(t.Context())
	end()
	list := func(ctx context.Context) (names []string, err error) {
		err = i.Each(ctx, func(p api.ClusterPod) bool {
			names = append(names, p.Name+" "+p.Node+" "+p.Addresses[0].String())
			waiting, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := r.state.LockContext(waiting); err != nil {
				t.Errorf("a sync waits for whoever looks at pods: %v", err)
				return false
			}
			r.state.Unlock()
			return true
		})
		slices.Sort(names)
		return names, err
	}
	want := []string{"client node-b 10.1.2.2", "other node-b 10.1.2.3"}

	r.state.Lock() // as a long sync does, before anybody has asked
	if _, err := list(ended); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("before there is a list: %v", err)
	}
	_, found := i.Find(ended, store.ObjectName{Namespace: "shop", Name: "client"})
	_, pods := i.Pods(ended)
	_, rules := i.Rules(ended, store.ObjectName{Namespace: "shop", Name: "client"})
	_, differences := i.Differences(ended)
	_, verdict := i.Verdict(ended, flowOf(flow(1, "10.1.2.2", "10.1.1.2:80"), nil).Flow)
	for what, err := range map[string]error{"Find": found, "Pods": pods, "Rules": rules, "Differences": differences, "Verdict": verdict} {
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "busy") {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.state.Unlock()

	if have, err := list(t.Context()); err != nil || !slices.Equal(have, want) {
		t.Errorf("have %v, %v", have, err)
	}
	old := *r.listed.Load()
	old.made = old.made.Add(-2 * listPeriod)
	r.listed.Store(&old)
	r.state.Lock() // the list is too old, and a sync goes on
	var have []string
	err := i.Each(ended, func(p api.ClusterPod) bool {
		have = append(have, p.Name)
		return true
	})
	r.state.Unlock()
	if slices.Sort(have); err != nil || !slices.Equal(have, []string{"client", "other"}) {
		t.Errorf("during a sync: %v, %v", have, err)
	}
	r.tell(pod("node-b", "new", "10.1.2.4"))
	if have, err := list(t.Context()); err != nil || len(have) != 3 {
		t.Errorf("afterwards: %v, %v", have, err)
	}
}
