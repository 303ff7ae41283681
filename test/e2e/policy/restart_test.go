package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// stream asks questions a hundred times a second, each time anew, until it is told to stop.
type stream struct {
	questions []question
	stop      chan struct{}
	done      chan struct{}
	asked     int
	answers   map[string]map[string]int // by question, then by answer
}

// newStream begins to ask. The questions are those of one prober.
func newStream(questions ...question) *stream {
	s := &stream{questions: questions, stop: make(chan struct{}), done: make(chan struct{}), answers: map[string]map[string]int{}}
	for _, q := range questions {
		s.answers[q.String()] = map[string]int{}
	}
	questions[0].from.queue <- s.run
	return s
}

// waited is how long an answer may take.
const waited = 3 * time.Second

func (s *stream) run() {
	defer close(s.done)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	type asked struct {
		question
		pending []pending
		until   time.Time
	}
	var all []asked
	stopped := false
	for !stopped || len(all) > 0 {
		<-tick.C
		select {
		case <-s.stop:
			stopped = true
		default:
			s.asked++
			for _, q := range s.questions {
				all = append(all, asked{q, []pending{q.from.begin(q)}, time.Now().Add(waited)})
			}
		}
		kept := all[:0]
		for _, a := range all {
			if collect(a.pending, []question{a.question}, 0) && time.Now().Before(a.until) {
				kept = append(kept, a)
				continue
			}
			s.answers[a.question.String()][a.pending[0].end()]++
		}
		all = kept
	}
}

// end stops it and checks that every question was answered as it should be, each time.
func (s *stream) end(t *testing.T, want map[question]string) {
	t.Helper()
	close(s.stop)
	<-s.done
	for _, q := range s.questions {
		got := s.answers[q.String()]
		count := 0
		for _, n := range got {
			count += n
		}
		if count == 0 || count > got[want[q]] {
			t.Errorf("%v: the answers are %v, want %s", q, got, want[q])
		}
	}
	t.Logf("%d questions, %d times", len(s.questions), s.asked)
}

// TestRestart ends daemons in all ways while connections are opened. Nothing opens, nothing closes, and a daemon that comes back writes nothing.
func TestRestart(t *testing.T) {
	t.Parallel()
	times := 5
	if testing.Short() {
		times = 1
	}
	r := newRig(t, rigOptions{nodes: 2})
	pods := map[string]*pod{}
	for _, p := range r.addPods(t, modelPods(2)) {
		pods[p.name] = p
	}
	web := &store.NetworkPolicy{Name: store.ObjectName{Namespace: "y", Name: "web"}, IsolatesIngress: true, IsolatesEgress: true,
		Ingress: []store.PolicyRule{{Ports: []store.PolicyPort{{Protocol: store.TCP, Port: 80}, {Protocol: store.UDP, Port: 70, EndPort: 80}}}}}
	r.apply(t, changesOf(policytest.Namespaces(), web, closes(named("z", "deny", ""), true, true)))

	want := map[question]string{}
	var questions []question
	for _, dst := range []*pod{pods["y/a"], pods["y/b"], pods["z/a"], pods["z/b"]} {
		for _, service := range []policytest.Service{{Protocol: store.TCP, Port: 80}, {Protocol: store.UDP, Port: 80}, {Protocol: store.UDP, Port: 81}} {
			for _, a := range dst.record.Addrs {
				q := question{pods["x/a"].prober, a, service}
				questions = append(questions, q)
				if want[q] = silent; strings.HasPrefix(dst.name, "y/") && service.Port == 80 {
					want[q] = open
				}
			}
		}
	}
	newer := t.TempDir() // an upgrade is other files
	for _, program := range []string{"twilld", "twill", "twill-ipam"} {
		must(t, copyFile(filepath.Join(newer, program), filepath.Join(binDir, program)))
	}
	for name, restart := range map[string]func(n *lab.Node) error{
		"stop": func(n *lab.Node) error { return n.StopDaemon(t.Context()) },
		"kill": func(n *lab.Node) error { return n.KillDaemon(t.Context()) },
		"upgrade": func(n *lab.Node) error {
			return errors.Join(n.StopDaemon(t.Context()), n.SetDaemon(lab.NodeOptions{Program: filepath.Join(newer, "twilld")}))
		},
	} {
		s := newStream(questions...)
		for range times {
			for _, n := range r.lab.Nodes() {
				before := uncounted(table(t, n))
				monitor := startMonitor(t, n)
				must(t, restart(n))
				time.Sleep(200 * time.Millisecond) // without a daemon
				must(t, n.StartDaemon())
				must(t, n.Ready(t.Context()))
				time.Sleep(300 * time.Millisecond) // what it might write later
				if text := monitor(); text != "" {
					t.Errorf("%s: the daemon of %s wrote when it came back:\n%s", name, n.Name, text)
				}
				if after := uncounted(table(t, n)); before != after {
					t.Errorf("%s: the table of %s differs:\n%s", name, n.Name, differing(before, after))
				}
			}
		}
		s.end(t, want)
	}
}

// uncounted is a listing without what packets change in it.
func uncounted(listing string) string { return canonical(listing, "nothing") }

// startMonitor listens to what happens to the table. What it returns ends that, and returns what happened.
func startMonitor(t *testing.T, n *lab.Node) func() string {
	t.Helper()
	cmd := n.Command(t.Context(), "nft", "monitor")
	var text bytes.Buffer
	cmd.Stdout = &text
	must(t, cmd.Start())
	return func() string {
		must(t, cmd.Process.Signal(unix.SIGTERM))
		_ = cmd.Wait() // it was told to end
		var lines []string
		for line := range strings.Lines(text.String()) {
			if strings.Contains(line, "twill-policy") {
				lines = append(lines, line)
			}
		}
		if len(lines) > 20 {
			lines = append(lines[:20], fmt.Sprintf("and %d more", len(lines)-20))
		}
		return strings.Join(lines, "")
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
