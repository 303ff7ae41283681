package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/twill-cni/twill/ctl/check"
	"github.com/twill-cni/twill/ctl/ipam"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/status"
	"github.com/twill-cni/twill/ctl/sysdump"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/redact"
	"github.com/twill-cni/twill/kernel/view"
	"github.com/twill-cni/twill/store"
)

// The names of those who take parts.
const (
	byDaemon = "twilld's socket"
	byKernel = "the kernel, on this machine"
	byFiles  = "files on this machine"
	byPod    = "twillctl check, in the container of twilld"
)

// dumpedNode is a node that parts are taken of.
type dumpedNode struct {
	viewpoint
	name   string          // of its directory in the archive
	status *api.NodeStatus // nil: its daemon does not answer
	here   *hereabouts     // nil: the node is another machine
}

// hereabouts are where a node on this machine is looked at without its daemon.
type hereabouts struct {
	do         func(func() error) error // in its network namespace
	lab        lab.Options              // without a name: the machine itself
	confDir    string
	subnetFile string
	log        string // a file; empty: that is the init system's business
}

// dumped returns the nodes that the flags say, each asked how it is: that tells which parts it has.
func (f *viewpoints) dumped(ctx context.Context) ([]dumpedNode, error) {
	views, err := f.open(ctx)
	if err != nil {
		return nil, err
	}
	answers, errs := askAll(ctx, views, func(ctx context.Context, v viewpoint) (api.NodeStatus, error) { return v.client.Status(ctx) })
	nodes := make([]dumpedNode, len(views))
	for i, v := range views {
		nodes[i] = dumpedNode{viewpoint: v, name: v.node}
		if errs[i] == nil {
			nodes[i].status = &answers[i]
		}
		if nodes[i].name == "" {
			nodes[i].name = "this-node"
			if nodes[i].status != nil && answers[i].Node != "" {
				nodes[i].name = answers[i].Node
			}
			nodes[i].here = thisMachine()
		}
		nodes[i].name = sysdump.FileName(nodes[i].name)
	}
	if f.lab.Name == "" || f.kube.all || f.kube.file != "" {
		return nodes, nil
	}
	l, err := lab.Open(f.lab)
	if err != nil {
		return nil, err
	}
	for i := range nodes {
		n, err := l.Node(nodes[i].node)
		if err != nil {
			return nil, err
		}
		nodes[i].here = &hereabouts{do: n.Do, lab: f.lab, confDir: n.CNIConfDir(), subnetFile: n.SubnetFile(), log: n.LogFile()}
	}
	return nodes, nil
}

// thisMachine is looked at where twilld's defaults are.
func thisMachine() *hereabouts {
	return &hereabouts{confDir: "/etc/cni/net.d", subnetFile: "/run/flannel/subnet.env", do: func(f func() error) error {
		runtime.LockOSThread() // the sysctls are those of the thread's namespace
		defer runtime.UnlockOSThread()
		return f()
	}}
}

// dumpParts are all parts, those of the cluster first.
func dumpParts(ctx context.Context, nodes []dumpedNode) []sysdump.Part {
	views := make([]viewpoint, len(nodes))
	for i, n := range nodes {
		views[i] = n.viewpoint
	}
	parts := []sysdump.Part{
		{Name: "versions.txt", By: "twillctl", Take: func(context.Context) ([]byte, error) { return versionsOf(nodes), nil }},
		{Name: "status.json", By: byDaemon, Take: sysdump.JSON(func(ctx context.Context) (statusReport, error) { return lookAround(ctx, views), nil })},
		{Name: "status.txt", By: byDaemon, Take: func(ctx context.Context) ([]byte, error) {
			var text bytes.Buffer
			err := lookAround(ctx, views).print(&text, "wide")
			return text.Bytes(), err
		}},
		{Name: "nodes.json", By: byDaemon, Take: sysdump.JSON(func(ctx context.Context) (api.NodeListing, error) { return listNodes(ctx, views, store.WithExpiries) })},
		{Name: "ipam-check.json", By: byDaemon, Take: sysdump.JSON(func(ctx context.Context) (any, error) {
			reports, err := askAddresses(ctx, views)
			if len(reports) == 0 && err != nil {
				return nil, err
			}
			return append([]status.Finding{}, ipam.Check(reports)...), nil // nodes that do not answer are in status.json
		})},
	}
	for _, n := range nodes {
		parts = append(parts, n.parts()...)
	}
	return parts
}

func versionsOf(nodes []dumpedNode) []byte {
	all := []string{fmt.Sprintf("twillctl %s %s %s/%s", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)}
	for _, n := range nodes {
		if n.status != nil {
			all = append(all, fmt.Sprintf("%s twilld %s", n.name, n.status.Version))
		} else {
			all = append(all, n.name+" twilld does not answer")
		}
	}
	return sysdump.Lines(all)
}

// parts are those of one node.
func (n dumpedNode) parts() []sysdump.Part {
	var all []sysdump.Part
	add := func(name, by string, take func(context.Context) ([]byte, error)) {
		all = append(all, sysdump.Part{Name: "nodes/" + n.name + "/" + name, By: by, Take: take})
	}
	c := n.client
	add("settings.json", byDaemon, sysdump.JSON(c.Settings))
	add("addresses.json", byDaemon, sysdump.JSON(c.Addresses))
	add("pods.json", byDaemon, sysdump.JSON(func(ctx context.Context) (any, error) { return c.TracePods(ctx) }))
	add("metrics.txt", byDaemon, textOf(c.Metrics))
	if s := n.status; s != nil {
		if s.BGP != nil {
			add("bgp/sessions.json", byDaemon, sysdump.JSON(func(ctx context.Context) (any, error) { return c.Sessions(ctx) }))
			add("bgp/left-out.json", byDaemon, sysdump.JSON(func(ctx context.Context) (any, error) { return c.LeftOut(ctx) }))
			add("bgp/routes.json", byDaemon, sysdump.JSON(func(ctx context.Context) (any, error) { return c.Routes(ctx) }))
		}
		if s.Services != nil {
			add("services.json", byDaemon, sysdump.JSON(func(ctx context.Context) (any, error) { return c.Services(ctx, store.ObjectName{}) }))
		}
		if s.Policies != nil {
			add("policies/pods.json", byDaemon, sysdump.JSON(func(ctx context.Context) (any, error) { return c.PolicyPods(ctx) }))
			add("policies/differences.json", byDaemon, sysdump.JSON(func(ctx context.Context) (any, error) { return c.PolicyDifferences(ctx) }))
			add("policies/drops.json", byDaemon, sysdump.JSON(func(ctx context.Context) (any, error) { return c.Drops(ctx) }))
		}
	}
	add("files.txt", n.filesBy(), n.files)
	add("log.txt", n.logBy(), n.lastLog)
	by, look := n.kernel()
	for _, f := range kernelFiles {
		add("kernel/"+f.name, by, func(ctx context.Context) ([]byte, error) {
			v, err := look(ctx)
			if err != nil {
				return nil, err
			}
			return f.content(ctx, v)
		})
	}
	switch {
	case n.here != nil:
		add("check.json", byKernel, sysdump.JSON(n.check))
	case n.runs != nil:
		add("check.json", byPod, sysdump.JSON(n.checkThere))
	}
	return all
}

// kernelFiles are what a view is made into.
var kernelFiles = []struct {
	name    string
	content func(context.Context, *view.View) ([]byte, error)
}{
	{"links.txt", func(_ context.Context, v *view.View) ([]byte, error) { return sysdump.Lines(v.Links), nil }},
	{"addresses.txt", func(_ context.Context, v *view.View) ([]byte, error) { return sysdump.Lines(v.Addresses), nil }},
	{"routes.txt", func(_ context.Context, v *view.View) ([]byte, error) { return sysdump.Lines(v.Routes), nil }},
	{"neighbors.txt", func(_ context.Context, v *view.View) ([]byte, error) { return sysdump.Lines(v.Neighbors), nil }},
	{"fdb.txt", func(_ context.Context, v *view.View) ([]byte, error) { return sysdump.Lines(v.FDB), nil }},
	{"nftables.txt", func(_ context.Context, v *view.View) ([]byte, error) { return []byte(v.Tables), nil }},
	{"kernel.json", func(ctx context.Context, v *view.View) ([]byte, error) {
		rest := struct {
			Release   string            `json:"release"`
			Conntrack view.Conntrack    `json:"conntrack"`
			Sysctls   map[string]string `json:"sysctls"`
			Unknown   map[string]string `json:"unknown,omitempty"`
		}{v.Release, v.Conntrack, v.Sysctls, v.Unknown}
		return sysdump.JSON(func(context.Context) (any, error) { return rest, nil })(ctx)
	}},
}

// kernel returns who looks at the node's kernel, and a function that does so once.
func (n dumpedNode) kernel() (by string, look func(context.Context) (*view.View, error)) {
	var once sync.Once
	var v *view.View
	var err error
	if n.here == nil {
		return byDaemon, func(ctx context.Context) (*view.View, error) {
			once.Do(func() { v, err = n.client.Kernel(ctx) })
			return v, err
		}
	}
	return byKernel, func(ctx context.Context) (*view.View, error) {
		once.Do(func() {
			err = n.here.do(func() error { v = view.Look(ctx); return nil })
		})
		return v, err
	}
}

func textOf(ask func(context.Context) (string, error)) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		text, err := ask(ctx)
		return []byte(text), err
	}
}

// byItself reports whether the node's daemon is asked, which knows where its files are.
func (n dumpedNode) byItself() bool { return n.status != nil || n.here == nil }

func (n dumpedNode) filesBy() string {
	if n.byItself() {
		return byDaemon
	}
	return byFiles
}

func (n dumpedNode) files(ctx context.Context) ([]byte, error) {
	var all []redact.File
	if n.byItself() {
		var err error
		if all, err = n.client.Files(ctx); err != nil {
			return nil, err
		}
	} else {
		all = append(redact.ReadConfigurations(n.here.confDir), redact.ReadSubnetFile(n.here.subnetFile))
	}
	var text strings.Builder
	for _, f := range all {
		fmt.Fprintf(&text, "==> %s <==\n%s", f.Path, f.Text)
		if f.Error != "" {
			fmt.Fprintf(&text, "# not shown: %s\n", f.Error)
		}
	}
	return []byte(text.String()), nil
}

func (n dumpedNode) logBy() string { return n.filesBy() }

// maxLog is how much of a log file's end is taken, in bytes.
const maxLog = 256 << 10

func (n dumpedNode) lastLog(ctx context.Context) ([]byte, error) {
	if n.byItself() {
		text, err := n.client.Log(ctx)
		return []byte(text), err
	}
	if n.here.log == "" {
		return nil, errors.New("twilld does not run: `journalctl -u twilld` has what it said")
	}
	f, err := os.Open(n.here.log)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was read only
	if info, err := f.Stat(); err == nil && info.Size() > maxLog {
		if _, err := f.Seek(-maxLog, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxLog))
	return []byte(redact.Lines(string(text))), err
}

// check looks at the host as "twillctl check" does, with what the daemon was told.
func (n dumpedNode) check(ctx context.Context) ([]check.Result, error) {
	flags := checkFlags{backend: "vxlan", proxy: "off", policy: "off", health: "127.0.0.1:10270", metrics: "127.0.0.1:10270"}
	flags.options.ConfDir, flags.options.PluginsDir, flags.options.SubnetFile = n.here.confDir, "/opt/cni/bin", n.here.subnetFile
	flags.options.VXLANPort, flags.options.BGPPort = 8472, 179
	if n.status != nil {
		settings, err := n.client.Settings(ctx)
		if err != nil {
			return nil, err
		}
		flags.take(settings)
	}
	flags.lab, flags.node = n.here.lab, n.node
	facts, err := flags.look(ctx)
	if err != nil {
		return nil, err
	}
	return check.Run(facts), nil
}

// checkThere runs "twillctl check" where the daemon runs, which has its network and its files, with what the daemon was told.
func (n dumpedNode) checkThere(ctx context.Context) (json.RawMessage, error) {
	settings, err := n.client.Settings(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{"check", "--output=json"}
	known := new(checkFlags).told()
	for _, s := range settings {
		if known[s.Name] != nil && (s.Name != "page" || s.Value != "") { // a twillctl of before there was a page knows no such flag
			args = append(args, "--"+s.Name+"="+s.Value)
		}
	}
	text, err := n.runs(ctx, args...)
	if err != nil && !json.Valid(text) { // beside an answer, the exit code says no more than that something in it fails
		return nil, err
	}
	return text, nil
}

// take sets the flags as the daemon has its settings.
func (f *checkFlags) take(settings []config.Setting) {
	told := f.told()
	for _, s := range settings {
		if to := told[s.Name]; to != nil {
			*to = s.Value
		}
	}
}

// told are the flags that are settings of the daemon, by their names.
func (f *checkFlags) told() map[string]*string {
	return map[string]*string{
		"backend": &f.backend, "proxy": &f.proxy, "policy": &f.policy, "iface": &f.options.Iface, "health-address": &f.health, "metrics-address": &f.metrics, "page": &f.page,
		"cni-conf-dir": &f.options.ConfDir, "cni-bin-dir": &f.options.PluginsDir, "subnet-file": &f.options.SubnetFile,
	}
}
