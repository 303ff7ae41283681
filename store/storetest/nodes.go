package storetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twill-cni/twill/store"
)

// recordObserver holds what a WatchNode emitted.
type recordObserver struct {
	*suite
	records <-chan store.NodeRecord
	stop    func() error
}

func (s *suite) watchNode(st store.Store, name string) *recordObserver {
	o := &recordObserver{suite: s}
	o.records, o.stop = follow(s, func(ctx context.Context, emit func(store.NodeRecord)) error { return st.WatchNode(ctx, name, emit) })
	return o
}

// next takes the next record and checks that it is what data says.
func (o *recordObserver) next(name, data string) {
	o.Helper()
	want, err := store.ParseNodeRecord(name, []byte(data))
	o.check(err)
	select {
	case have := <-o.records:
		if !have.Equal(want) {
			o.Fatalf("the record is %+v, want %+v", have, want)
		}
	case <-time.After(soon):
		o.Fatalf("not within %s: the record %s", soon, data)
	}
}

func testNodeRecord(s *suite) {
	s.SetNetwork(Config4)
	s.PutNode("b", `{"labels":{"of":"another"}}`)
	st := s.Open()
	if err := st.WatchNode(s.Context(), "a/b", func(store.NodeRecord) {}); err == nil || s.Context().Err() != nil {
		s.Errorf("a name that no node can have: %v", err)
	}
	o := s.watchNode(st, "a")
	o.next("a", `{}`)
	s.PutNode("aa", `{"labels":{"of":"another"}}`)
	s.PutNode("a", `{"labels":{"rack":"1"},"bgp":{"as":65001}}`)
	o.next("a", `{"labels":{"rack":"1"},"bgp":{"as":65001}}`)
	s.PutNode("a", `{"bgp": {"as": 65001}, "labels": {"rack": "1"}}`) // says the same
	s.PutNode("a", `{"labels":{"rack":"2"}}`)
	o.next("a", `{"labels":{"rack":"2"}}`)
	later := s.watchNode(s.Open(), "a")
	later.next("a", `{"labels":{"rack":"2"}}`)
	s.DeleteNode("a")
	o.next("a", `{}`)
	later.next("a", `{}`)
	s.PutNode("a", `{"bgp":{}}`)
	o.next("a", `{"bgp":{}}`)
	if err := o.stop(); !errors.Is(err, context.Canceled) {
		s.Errorf("a cancelled watch returned %v", err)
	}
	s.check(st.Close())
	if err := st.WatchNode(s.Context(), "a", func(store.NodeRecord) {}); err == nil {
		s.Error("WatchNode on a closed store returned nil")
	}
}

func testNodeRecordGarbage(s *suite) {
	s.PutNode("a", `{`)
	o := s.watchNode(s.Open(), "a")
	o.next("a", `{}`)
	s.PutNode("a", `{"labels":{"rack":"1"}}`)
	o.next("a", `{"labels":{"rack":"1"}}`)
	for _, bad := range []string{``, `{"label":{"rack":"2"}}`, `{"labels":{"rack":2}}`, `null`} {
		s.PutNode("a", bad)
	}
	s.Stop()
	s.Start()
	s.PutNode("a", `{"labels":{"rack":"3"}}`)
	o.next("a", `{"labels":{"rack":"3"}}`)
	s.PutNode("a", `{`)
	s.DeleteNode("a")
	o.next("a", `{}`)
}

func testNodeRecordOutage(s *suite) {
	s.PutNode("a", `{"labels":{"n":"0"}}`)
	s.Stop()
	o := s.watchNode(s.Open(), "a")
	s.Start()
	o.next("a", `{"labels":{"n":"0"}}`)
	for n := range 3 {
		s.Stop()
		s.Start() // the watch comes back, but to a history without what follows, if it is slower than this
		s.PutNode("a", `{"labels":{"n":"lost"}}`)
		s.DeleteNode("a")
		data := fmt.Sprintf(`{"labels":{"n":"%d"}}`, n+1)
		s.PutNode("a", data)
		s.Compact()
		o.until("a", data)
	}
	s.Stop()
	s.Start()
	s.DeleteNode("a")
	s.Compact()
	o.next("a", `{}`)
}

// until takes records until one is what data says.
func (o *recordObserver) until(name, data string) {
	o.Helper()
	want, err := store.ParseNodeRecord(name, []byte(data))
	o.check(err)
	for deadline := time.After(soon); ; {
		select {
		case have := <-o.records:
			if have.Equal(want) {
				return
			}
		case <-deadline:
			o.Fatalf("not within %s: the record %s", soon, data)
		}
	}
}

// A node goes on with what was said of it while the operator restores a datastore that lost its data; what is not restored is gone in the end.
func testNodeRecordWiped(s *suite) {
	s.SetNetwork(Config4)
	for n := range 20 { // revisions that the new history does not reach
		s.PutNode("a", fmt.Sprintf(`{"labels":{"n":"%d"}}`, n))
	}
	st := s.Open()
	gone, restored := s.watchNode(st, "a"), s.watchNode(st, "b")
	gone.next("a", `{"labels":{"n":"19"}}`)
	restored.next("b", `{}`)
	s.PutNode("b", `{"labels":{"rack":"1"}}`)
	restored.next("b", `{"labels":{"rack":"1"}}`)
	s.eventually("health", func() bool { return st.Health() == nil })
	s.Wipe(Config4)
	s.PutNode("b", `{"labels":{"rack":"1"}}`)
	gone.next("a", `{}`)
	s.PutNode("b", `{"labels":{"rack":"2"}}`)
	restored.next("b", `{"labels":{"rack":"2"}}`)
}
