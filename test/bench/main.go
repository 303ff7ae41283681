package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twill-cni/twill/test/kubetest"
)

// A scenario is one measurement. It runs in a sandbox and prints its own table.
type scenario struct {
	name string
	what string
	run  func(bench) error
}

var scenarios = []scenario{
	{"cni", "ADD and DEL through libcni beside bridge + host-local + portmap", runCNI},
	{"peers", "a cold start with thousands of peers beside flanneld", runPeers},
	{"kube-nodes", "a cold start with 5,000 Nodes of the Kubernetes API, and one more Node, beside flanneld --kube-subnet-mgr", runKubeNodes},
	{"join", "peers that join a node which knows none, and one which knows thousands", runJoin},
	{"idle", "what a node with 1,000 peers costs while nothing happens", runIdle},
	{"ipam", "one allocation by the number of leases that stand", runIPAM},
	{"overlay", "pod to pod through VXLAN beside node to node", runOverlay},
	{"bgp-restart", "routing with BGP: what a restart of twilld costs, with graceful restart and without", runBGPRestart},
	{"bgp-prefixes", "thousands of prefixes from a BIRD beside another BIRD, and routes removed behind the daemon's back", runBGPPrefixes},
	{"bgp-bfd", "one of two equal paths dies and the link stays up: beside a BIRD, with BFD and without", runBGPFailover},
	{"bgp-cold", "from the start of twilld to its prefix at a neighbour, another one being dead", runBGPCold},
	{"bgp-throughput", "pod to pod routed with BGP beside node to node", runBGPThroughput},
	{"bgp-mesh", "what a node spends on sessions with up to 200 others, beside BIRD", runBGPMesh},
	{"proxy-sync", "the first sync of thousands of Services beside kube-proxy", runProxySync},
	{"proxy-change", "from a changed endpoint to the first packet there, by the number of Services, beside kube-proxy", runProxyChange},
	{"proxy-connect", "connections through a ClusterIP by the number of Services, beside kube-proxy", runProxyConnect},
	{"proxy-affinity", "connections to Services with affinity by the number of endpoints, beside kube-proxy", runProxyAffinity},
	{"proxy-memory", "what thousands of Services cost while nothing happens, beside kube-proxy", runProxyMemory},
	{"policy-rate", "connections between pods by the number of policies that select them", runPolicyRate},
	{"policy-change", "from a pod's changed label to the last of several nodes that enforces it, by the number of policies", runPolicyChange},
	{"policy-sync", "a start with 10,000 pods and 1,000 policies, and a restart that finds its table", runPolicySync},
	{"policy-add", "ADD and DEL with policies and without", runPolicyAdd},
	{"dns", "names of 10,000 Services beside CoreDNS", runDNS},
	{"kube-pods", "a Node that becomes Ready and Pods that come and go, beside flannel + kube-proxy", runKubePods},
}

// unboxed are scenarios of whole machines (test/kubetest), which bring their own namespaces. Processes of other runs, by which kubetest knows what
// a killed one has left, have no numbers in a sandbox.
var unboxed = []string{"kube-pods"}

// bench is what every scenario gets.
type bench struct {
	bin   string // Twill's programs
	peers string // the peers' programs
	quick bool   // a tenth of the work: shows that the benchmark runs, not how fast anything is
}

func (b bench) program(name string) string { return filepath.Join(b.bin, name) }
func (b bench) peer(name string) string    { return filepath.Join(b.peers, name) }

// scale returns n, or a tenth of it in a quick run.
func (b bench) scale(n int) int {
	if b.quick {
		return max(n/10, 1)
	}
	return n
}

func main() {
	kubetest.Init()
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "comma-separated scenarios to run instead of all")
	quick := flags.Bool("quick", false, "a tenth of the work")
	inside := flags.String(sandboxFlag, "", "internal: run this scenario in the namespaces of this process")
	library := flags.String(aloneFlag, "", "internal: be the BGP library and nothing else")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *library != "" {
		return runAlone(*library, os.Stdout)
	}
	b, err := find(*quick)
	if err != nil {
		return err
	}
	for _, s := range scenarios {
		switch {
		case *inside == s.name:
			return s.run(b)
		case *inside != "", *only != "" && !slices.Contains(strings.Split(*only, ","), s.name):
			continue
		}
		fmt.Printf("\n== %s: %s\n", s.name, s.what)
		start := func() error { return sandboxed(s.name, *quick) }
		if slices.Contains(unboxed, s.name) {
			start = func() error { return s.run(b) }
		}
		if err := start(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func find(quick bool) (bench, error) {
	b := bench{bin: "bin", peers: ".cache/peers", quick: quick}
	for env, dir := range map[string]*string{"TWILL_BIN": &b.bin, "TWILL_PEERS": &b.peers} {
		if v := os.Getenv(env); v != "" {
			*dir = v
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return b, err
		}
		*dir = abs
	}
	for _, p := range []string{b.program("twilld"), b.program("twill"), b.program("twillctl"), b.peer("flannel"), b.peer("bridge")} {
		if _, err := os.Stat(p); err != nil {
			return b, fmt.Errorf("%w: run `make build peers`", err)
		}
	}
	return b, nil
}
