package etcd

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/twill-cni/twill/store"
)

func TestNodeGarbageIsLoggedOnce(t *testing.T) {
	h := newHarness(t, nil)
	var log lines
	h.log = slog.New(slog.NewTextHandler(&log, nil))
	records := make(chan store.NodeRecord, 100)
	s := h.open()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.WatchNode(t.Context(), "a", func(r store.NodeRecord) { records <- r })
	}()
	<-records
	for range 5 {
		h.PutNode("a", `{"lables":{}}`)
	}
	h.cut()
	h.PutNode("a", `{"lables":{}}`)
	h.Compact()
	h.mend()
	h.PutNode("a", `{"labels":{"rack":"1"}}`)
	if r := <-records; r.Labels["rack"] != "1" {
		t.Errorf("have %+v", r)
	}
	h.PutNode("a", `{"lables":{}}`) // again, after it was good
	h.eventually("two lines", func() bool { return strings.Count(log.String(), "lables: the key is unknown") == 2 })
	h.PutNode("a", `{"labels":{"rack":"2"}}`)
	<-records
	if n := strings.Count(log.String(), "lables"); n != 2 {
		t.Errorf("one bad record, put at two times, was logged %d times:\n%s", n, log.String())
	}
	h.must(s.Close())
	<-ended
}
