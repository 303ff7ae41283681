package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/daemon/trace"
)

// most is how long a trace may take.
const most = 2 * time.Second

// rig is a lab of two nodes with a pod on each.
type rig struct {
	lab   *lab.Lab
	nodes []*lab.Node
	pods  []*lab.Pod
	words *strings.Replacer // what faults say for addresses, MACs and names
}

func newRig(t *testing.T, backend string) *rig {
	t.Helper()
	l, err := lab.New(lab.Options{Name: runName + backend, BinDir: binDir, Nodes: 2, PodsPerNode: 1, Proxy: "nftables",
		Routing: lab.Routing{Backend: backend}, DaemonArgs: []string{"--policy=on"}})
	must(t, err)
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	must(t, l.Up(t.Context()))
	r := &rig{lab: l, nodes: l.Nodes(), pods: l.Pods()}
	var words []string
	for i, n := range r.nodes {
		number := fmt.Sprint(i + 1)
		pod := r.pods[i]
		words = append(words, "POD"+number, pod.Addrs()[0].String(), "NODE"+number, n.Addrs()[0].String(), "GATEWAY"+number, pod.Gateways()[0].String(),
			"NET"+number, netip.PrefixFrom(pod.Addrs()[0], 24).Masked().String(), "VTEP"+number, netip.PrefixFrom(pod.Addrs()[0], 24).Masked().Addr().String(),
			"VETH"+number, strings.TrimSpace(sh(t, n.Netns(), "ip -o link show master cni0 | cut -d' ' -f2 | cut -d@ -f1")))
		if backend == lab.VXLAN {
			words = append(words, "MAC"+number, strings.TrimSpace(sh(t, n.Netns(), "ip -o link show flannel.1 | sed 's/.*link.ether //; s/ .*//'")))
		}
	}
	r.words = strings.NewReplacer(words...)
	return r
}

// member returns the namespace of "node1", "pod2" or "underlay".
func (r *rig) member(name string) netns.Namespace {
	if number, ok := strings.CutPrefix(name, "pod"); ok {
		return r.pods[number[0]-'1'].Netns()
	}
	if number, ok := strings.CutPrefix(name, "node"); ok {
		return r.nodes[number[0]-'1'].Netns()
	}
	return r.lab.Underlay()
}

// run runs a line of shell, with the words replaced, in a member.
func (r *rig) run(t *testing.T, where, line string) {
	t.Helper()
	sh(t, r.member(where), r.words.Replace(line))
}

func (r *rig) stop(t *testing.T) {
	t.Helper()
	for _, n := range r.nodes {
		must(t, n.StopDaemon(t.Context()))
	}
}

// repair has the daemons put everything right, and stops them again.
func (r *rig) repair(t *testing.T) {
	t.Helper()
	for _, n := range r.nodes {
		must(t, n.StartDaemon())
	}
	for _, n := range r.nodes {
		must(t, n.Ready(t.Context()))
	}
	r.stop(t)
}

// found is what a trace said.
type found struct {
	result trace.Result
	took   time.Duration
	text   string
}

func (f found) hop() string {
	if f.result.Failure == nil {
		return "nothing"
	}
	h := *f.result.Failure
	if h.Reply {
		return h.Node + " reply " + h.What
	}
	return h.Node + " " + h.What
}

// trace traces from the first pod to the target, and checks the exit code.
func (r *rig) trace(t *testing.T, to string) found {
	t.Helper()
	var stdout, stderr bytes.Buffer
	begin := time.Now()
	cmd := exec.CommandContext(t.Context(), filepath.Join(binDir, "twillctl"), "trace", r.pods[0].Name, r.words.Replace(to), "--lab", r.lab.Name(), "-o", "json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	f := found{took: time.Since(begin), text: stdout.String()}
	var all []trace.Result
	if json.Unmarshal(stdout.Bytes(), &all) != nil || len(all) != 1 {
		t.Fatalf("%v: %s%s", err, &stdout, &stderr)
	}
	f.result = all[0]
	if (err != nil) != (f.result.Failure != nil) {
		t.Errorf("exit %v with %+v", err, f.result.Failure)
	}
	return f
}

// apply stores manifests.
func (r *rig) apply(t *testing.T, verb, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	out, err := exec.CommandContext(t.Context(), filepath.Join(binDir, "twillctl"), verb, "-f", file, "--lab", r.lab.Name()).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", verb, err, out)
	}
}
