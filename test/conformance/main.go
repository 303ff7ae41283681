package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// conformanceFocus names the tests that a cluster must pass to be called a Kubernetes, as far as they are the network group's.
const conformanceFocus = `\[sig-network\].*\[Conformance\]`

// policiesFocus names the tests of NetworkPolicies.
const policiesFocus = `\[sig-network\].*Netpol`

// everythingFocus names all tests of the network group.
const everythingFocus = `\[sig-network\]`

type options struct {
	backends  []string
	focus     string
	dualStack bool
	policies  bool
	processes int
	machines  int
	programs  string // holds what the make targets kube, kube-node and conformance-build make
	peers     string // holds what the make target peers makes
	image     string // archive with Twill's image
	deploy    string // directory of the manifests
	out       string // gets a directory for each backend
	timeout   time.Duration
}

func main() {
	kubetest.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var failed []error
	for _, backend := range o.backends {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(failed, err)...)
		}
		begin := time.Now()
		r, err := runBackend(ctx, o, backend, out)
		if err != nil {
			failed = append(failed, fmt.Errorf("backend %s: %w", backend, err))
			continue
		}
		text := r.table(backend, time.Since(begin))
		fmt.Fprint(out, text)
		err = os.WriteFile(filepath.Join(o.out, backend, "table.txt"), []byte(text), 0o644)
		if bad := r.verdict(); bad != nil || err != nil {
			failed = append(failed, fmt.Errorf("backend %s: %w", backend, errors.Join(bad, err)))
		}
	}
	return errors.Join(failed...)
}

func parse(args []string) (options, error) {
	var o options
	var backends string
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	flags.StringVar(&backends, "backend", "vxlan,bgp", "backends to run the tests with, one after the other")
	flags.StringVar(&o.focus, "focus", conformanceFocus, `regular expression of the tests' names, "all" for all of sig-network that can run here, or "policies" for NetworkPolicies with Twill enforcing them; both in a cluster of both families`)
	flags.BoolVar(&o.dualStack, "dual-stack", false, "give Pods addresses of both families; deploy/twill.yaml has IPv4 alone")
	flags.BoolVar(&o.policies, "policies", false, "have Twill enforce policies, which is off in deploy/twill.yaml")
	flags.IntVar(&o.processes, "processes", 4, "how many tests run at a time")
	flags.IntVar(&o.machines, "machines", 0, "how many nodes the cluster has, each a zone of its own (default 2; 3 with -focus=all, where tests ask for three zones)")
	flags.StringVar(&o.image, "image", "bin/twill-image.tar", "archive with Twill's image")
	flags.StringVar(&o.deploy, "deploy", "deploy", "directory with Twill's manifests")
	flags.StringVar(&o.out, "out", ".cache/conformance", "directory for logs and reports, one directory for each backend")
	flags.DurationVar(&o.timeout, "timeout", 2*time.Hour, "for the tests with one backend")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown arguments %q", flags.Args())
	}
	for backend := range strings.SplitSeq(backends, ",") {
		if backend != "vxlan" && backend != "bgp" {
			return o, fmt.Errorf("unknown backend %q: vxlan and bgp are", backend)
		}
		o.backends = append(o.backends, backend)
	}
	if o.focus == "all" {
		o.focus, o.dualStack = everythingFocus, true
		o.machines = cmp.Or(o.machines, 3)
	}
	if o.focus == "policies" {
		o.focus, o.policies, o.dualStack = policiesFocus, true, true
	}
	o.machines = cmp.Or(o.machines, 2)
	o.programs, o.peers = cmp.Or(os.Getenv("TWILL_KUBE"), ".cache/kube"), cmp.Or(os.Getenv("TWILL_PEERS"), ".cache/peers")
	// The tests run elsewhere: in a directory of their own.
	for _, path := range []*string{&o.programs, &o.peers, &o.image, &o.deploy, &o.out} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return o, err
		}
		*path = absolute
	}
	return o, nil
}

// runBackend makes a cluster with a backend, runs the tests on it and returns what came of them.
func runBackend(ctx context.Context, o options, backend string, out io.Writer) (r *report, err error) {
	dir := filepath.Join(o.out, backend)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(out, "%-6s %6s  %s\n", backend, time.Since(begin).Round(time.Second), fmt.Sprintf(format, args...))
	}
	site, err := launch(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, keepLogs(site, dir), site.Close())
	}()
	say("%d kubelets run, Kubernetes %s", len(site.Machines), version(ctx, site))
	files, err := manifests(o, backend, dir)
	if err == nil {
		err = install(ctx, site, files)
	}
	if err != nil {
		return nil, err
	}
	say("the nodes are Ready, Twill is their network; the tests begin: tail -f %s", filepath.Join(dir, "ginkgo.log"))
	if o.focus != conformanceFocus {
		for _, e := range exclusionsOf(o, backend) {
			say("left out: %s: %s", e.pattern, e.reason)
		}
	}
	if err := runTests(ctx, o, site, backend, dir); err != nil {
		return nil, err
	}
	say("the tests have ended")
	return readReport(dir)
}
