//go:build linux

package gauge

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var addresses = cmpopts.EquateComparable(netip.Addr{})

func TestAnswerIsReadAsItWasWritten(t *testing.T) {
	edges := []Edge{
		{To: netip.MustParseAddr("10.244.3.1"), State: Down, Loss: 0.35, RTT: 1234 * time.Microsecond},
		{To: netip.MustParseAddr("fd00:244:0:3::1"), State: Silent, Loss: 1},
	}
	message := newAnswer("node-2.example", edges)
	putHead(message, answer, 42)
	node, have, err := readAnswer(message, 42)
	if err != nil || node != "node-2.example" {
		t.Fatalf("have %q, %v", node, err)
	}
	if diff := cmp.Diff(edges, have, addresses); diff != "" {
		t.Error(diff)
	}
	if _, _, err := readAnswer(message, 43); err == nil {
		t.Error("the answer to another question is taken")
	}
}

// Nobody gets more than he sent, whatever there is to say.
func TestAnswersAreNoLongerThanQuestions(t *testing.T) {
	edges := make([]Edge, 10*maxEdges)
	for i := range edges {
		edges[i].To = netip.MustParseAddr("fd00::1")
	}
	message := newAnswer(strings.Repeat("n", 2*maxName), edges)
	if len(message) > len(newQuestion(0)) {
		t.Errorf("%d bytes answer %d", len(message), questionSize)
	}
	putHead(message, answer, 7)
	if _, have, err := readAnswer(message, 7); err != nil || len(have) != maxEdges {
		t.Errorf("have %d edges, %v", len(have), err)
	}
}

func TestMessagesThatAreRefused(t *testing.T) {
	good := newAnswer("node1", []Edge{{To: netip.MustParseAddr("10.0.0.1")}})
	putHead(good, answer, 1)
	for name, message := range map[string][]byte{
		"empty":            nil,
		"head alone":       good[:headSize],
		"cut off":          good[:len(good)-1],
		"too long":         append(bytes.Clone(good), 0),
		"a question":       newQuestion(1),
		"longest name":     append(append(bytes.Clone(good[:headSize]), 255), make([]byte, 256)...),
		"no name":          func() []byte { m := newAnswer("", nil); putHead(m, answer, 1); return m }(),
		"markup in a name": func() []byte { m := newAnswer("<b>x</b>", nil); putHead(m, answer, 1); return m }(),
	} {
		if node, _, err := readAnswer(message, 1); err == nil {
			t.Errorf("%s: is taken, from %q", name, node)
		}
	}
	for name, message := range map[string][]byte{"short": newQuestion(1)[:questionSize-1], "long": append(newQuestion(1), 0), "an answer": good} {
		if _, err := readQuestion(message); err == nil {
			t.Errorf("%s: is taken for a question", name)
		}
	}
	if nonce, err := readQuestion(newQuestion(77)); err != nil || nonce != 77 {
		t.Errorf("have %d, %v", nonce, err)
	}
}

func FuzzReadAnswer(f *testing.F) {
	good := newAnswer("node1", []Edge{{To: netip.MustParseAddr("10.0.0.1"), State: Up, Loss: 0.5, RTT: time.Millisecond}})
	f.Add(good)
	f.Add(newQuestion(0))
	f.Add(append(append(bytes.Clone(good[:headSize]), 255), make([]byte, 256)...))
	f.Fuzz(func(t *testing.T, message []byte) {
		node, edges, err := readAnswer(message, 0)
		if err != nil {
			return
		}
		if len(edges) > maxEdges || !validName.MatchString(node) {
			t.Fatalf("takes %q with %d edges", node, len(edges))
		}
		again, have, err := readAnswer(newAnswer(node, edges), 0)
		if err != nil || again != node || fmt.Sprint(have) != fmt.Sprint(edges) {
			t.Fatalf("have %q %v, %v; want %q %v", again, have, err, node, edges)
		}
	})
}

func TestWindow(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name  string
		rtts  []time.Duration
		state State
		want  sum
	}{
		{"nothing", nil, Unknown, sum{}},
		{"one", []time.Duration{3 * ms}, Up, sum{asked: 1, least: 3 * ms, median: 3 * ms, latest: 3 * ms}},
		{"two missing at the start", []time.Duration{0, 0}, Unknown, sum{asked: 2, lost: 2}},
		{"never", []time.Duration{0, 0, 0}, Silent, sum{asked: 3, lost: 3}},
		{"a loss", []time.Duration{ms, 0, 2 * ms}, Up, sum{asked: 3, lost: 1, least: ms, median: 2 * ms, latest: 2 * ms}},
		{"no more", []time.Duration{ms, 0, 0, 0}, Down, sum{asked: 4, lost: 3, least: ms, median: ms, latest: ms}},
		{"again", []time.Duration{ms, 0, 0, 0, 5 * ms}, Up, sum{asked: 5, lost: 3, least: ms, median: 5 * ms, latest: 5 * ms}},
		{"more than is kept", append(make([]time.Duration, 30), slicesOf(ms, windowSize)...), Up, sum{asked: windowSize, least: ms, median: ms, latest: ms}},
	} {
		var w window
		for _, rtt := range c.rtts {
			w.add(rtt)
		}
		if w.state() != c.state || w.sum() != c.want {
			t.Errorf("%s: have %s %+v, want %s %+v", c.name, w.state(), w.sum(), c.state, c.want)
		}
	}
}

func slicesOf(d time.Duration, n int) []time.Duration {
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = d
	}
	return all
}
