package policy

import (
	"context"
	"testing"
	"time"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/policy/gate"
)

// ask is an ADD that asks; what it is told comes over the channel.
func (r *rig) ask(container string) (told <-chan gate.State, hangUp func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan gate.State, 2)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Answer(ctx, gate.Request{ContainerID: container, IfName: "eth0"}, func(s gate.State) { c <- s })
	}()
	return c, func() { cancel(); <-ended }
}

func (r *rig) expect(told <-chan gate.State, want gate.State) {
	r.t.Helper()
	select {
	case s := <-told:
		if s != want {
			r.t.Errorf("told %q, want %q", s, want)
		}
	case <-time.After(daemontest.Patience):
		r.t.Fatalf("not told %q; %s", want, r.log)
	}
}

// A pod whose address somebody else had is closed once the kernel has nothing of it, and ready when its labels are known.
func TestAttach(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	r.host.mu.Lock()
	r.host.flows = append(r.host.flows, flow(1, "10.1.2.3", "10.1.1.3:443"))
	r.host.mu.Unlock()
	adding := record("new", "10.1.1.3")
	adding.Complete = false // nor is it seen that an ADD runs
	r.host.put(record("web", "10.1.1.2 fd00:1:1::2"), adding)
	told, hangUp := r.ask("c-new")
	r.expect(told, gate.StateClosed)
	if cut := r.host.cut(); len(cut) != 1 {
		t.Errorf("the connection of the one before is still there: cut %v", cut)
	}
	select {
	case s := <-told:
		t.Errorf("told %q of a pod whose labels are not known", s)
	default:
	}
	r.tell(pod(thisNode, "new", "", "role=web"))
	r.expect(told, gate.StateReady)
	hangUp()
	r.settled()
	r.state.Lock()
	defer r.state.Unlock()
	if n := len(r.pods.local); n != 1 {
		t.Errorf("%d pods are attached after an ADD that was not completed", n)
	}
}

// Nobody has to wait for a look at connections who gets addresses that nobody has had for long, and it makes none necessary soon.
func TestAttachWithoutALook(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	passes := func() int { r.host.mu.Lock(); defer r.host.mu.Unlock(); return r.host.passes }
	r.until("both looks", func() bool { return passes() == 2 })
	r.state.Lock()
	r.vacancies.looked(time.Now().Add(lookLast))
	r.state.Unlock()
	r.tell(pod(thisNode, "new", "", "role=web"))
	adding := record("new", "10.1.1.4")
	adding.Complete, adding.Adding = false, true
	r.host.put(record("web", "10.1.1.2 fd00:1:1::2"), adding)
	told, hangUp := r.ask("c-new")
	r.expect(told, gate.StateReady)
	hangUp()
	r.attached(record("web", "10.1.1.2 fd00:1:1::2"))
	if n := passes(); n != 2 {
		t.Errorf("%d looks", n)
	}
	r.host.put(record("web", "10.1.1.2 fd00:1:1::2"), adding)
	told, hangUp = r.ask("c-new")
	defer hangUp()
	r.expect(told, gate.StateReady)
	if n := passes(); n == 2 {
		t.Error("no look at the connections of one who had the address a moment ago")
	}
}

// An address that two pods claim is nobody's until one of them is gone.
func TestDisputedAddress(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	r.tell(pod(thisNode, "new", "", "role=web"))
	r.host.put(record("web", "10.1.1.2 fd00:1:1::2"), record("other", "10.1.1.3"), record("new", "10.1.1.3"))
	told, hangUp := r.ask("c-new")
	defer hangUp()
	r.expect(told, gate.StateClosed)
	r.attached(record("web", "10.1.1.2 fd00:1:1::2"), record("new", "10.1.1.3"))
	r.expect(told, gate.StateReady)
}

// Labels are in the records where there is no Kubernetes API, and what the source says of this node's pods does not count.
func TestOwnPods(t *testing.T) {
	own := record("web", "10.1.1.2")
	own.Labels = map[string]string{"role": "web"}
	r := newRig(t, kerneltest.NewTables(), func(o *Options) { o.OwnPods = true })
	r.host.put(own)
	r.begin(shop(), allow("web", "role=web", "role=client"), pod(thisNode, "web", "10.1.1.2", "role=old"), pod("node-b", "client", "10.1.2.2", "role=client"))
	r.settled()
	pods, err := NewInspector(r.Enforcer, nil).Pods(t.Context())
	if err != nil || len(pods) != 1 || len(pods[0].Ingress) != 1 || !pods[0].Enforced {
		t.Fatalf("%+v, %v", pods, err)
	}
	adding := record("second", "10.1.1.4")
	adding.Complete, adding.Adding, adding.Labels = false, true, own.Labels
	r.host.put(own, adding)
	told, hangUp := r.ask("c-second")
	defer hangUp()
	r.expect(told, gate.StateReady)
}

// A record that is damaged stands for what it was.
func TestDamagedRecord(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	want := dump(r.tables)
	damaged := record("web", "")
	damaged.Damage = context.Canceled
	r.attached(damaged, record("other", "10.1.1.3"))
	if have := dump(r.tables); have != want {
		t.Errorf("have %s, want %s", have, want)
	}
	r.attached(record("other", "10.1.1.3"))
	if have := dump(r.tables); have == want {
		t.Error("a pod that is gone is still there")
	}
}
