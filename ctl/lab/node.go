package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// NodeOptions say what a node is like. The zero value of each field stands for its default.
type NodeOptions struct {
	Name     string   // default "node<number>"
	NoDaemon bool     // StartDaemon does nothing: a test runs a program of its own there
	Program  string   // the daemon's program; default twilld of Options.BinDir
	Args     []string // more flags for the daemon; they win over Options.DaemonArgs
	Env      []string // more environment for the daemon, as KEY=value; wins over Options.DaemonEnv
}

// Node is one machine of the cluster: a network namespace with an uplink and a daemon. Its methods may be called concurrently.
type Node struct {
	Name string

	lab *Lab
	ns  netns.Namespace

	mu     sync.Mutex
	record nodeRecord
	pods   []*Pod
}

// nodeRecord is the content of node.json.
type nodeRecord struct {
	NodeOptions
	Number     int
	Backend    string     // of the daemon when it starts next: in a lab that is being switched, nodes differ
	IPv4, IPv6 netip.Addr // both are kept; the lab's family decides which are used
}

// AddNode makes one more node and, unless its options say otherwise, starts its daemon; Ready waits for it. A failure leaves no node.
func (l *Lab) AddNode(ctx context.Context, options NodeOptions) (*Node, error) {
	n, err := l.makeNode(options)
	if err != nil {
		return nil, err
	}
	if err := n.StartDaemon(); err != nil {
		return nil, errors.Join(err, n.Delete(context.WithoutCancel(ctx)))
	}
	return n, nil
}

// makeNode makes the namespace and its cable. When it fails, it removes what it made.
func (l *Lab) makeNode(options NodeOptions) (*Node, error) {
	l.mu.Lock()
	number := 1
	if len(l.nodes) > 0 {
		number = l.nodes[len(l.nodes)-1].record.Number + 1
	}
	if options.Name == "" {
		options.Name = nodeName(number)
	}
	n := &Node{Name: options.Name, lab: l, ns: netns.Named(namespaceName(l.Name(), options.Name))}
	n.record = nodeRecord{NodeOptions: options, Number: number, Backend: l.options.Backend}
	n.record.IPv4, n.record.IPv6 = l.options.nodeAddrs(number)
	err := l.checkMember("node", options.Name)
	if number > l.options.maxNodes() {
		err = errors.New("the lab is full")
	}
	if err == nil {
		l.nodes = append(l.nodes, n)
	}
	l.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("make node %s: %w", options.Name, err)
	}
	if err := n.plugIn(); err != nil {
		return nil, errors.Join(fmt.Errorf("make node %s: %w", options.Name, err), n.abandon())
	}
	return n, nil
}

// nodeName returns the name that the node with this number has unless it was given another.
func nodeName(number int) string { return fmt.Sprintf("node%d", number) }

// abandon removes a node that could not be made. Without an entry in the journal, there is nothing of it but its place in the list.
func (n *Node) abandon() error {
	if _, err := os.Lstat(n.dir()); err == nil {
		return n.Delete(context.Background())
	}
	n.unlist()
	return nil
}

func (n *Node) unlist() {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.lab.nodes = slices.DeleteFunc(n.lab.nodes, func(other *Node) bool { return other == n })
}

// checkMember checks a new member's name. The caller holds l.mu.
func (l *Lab) checkMember(what, name string) error {
	if err := checkName(what, name); err != nil {
		return err
	}
	taken := name == "underlay"
	for _, n := range l.nodes {
		taken = taken || n.Name == name
		for _, p := range n.Pods() {
			taken = taken || p.Name == name
		}
	}
	if taken {
		return fmt.Errorf("%s name %q: %w", what, name, os.ErrExist)
	}
	return nil
}

func (l *Lab) loadNode(name string) (*Node, error) {
	n := &Node{Name: name, lab: l, ns: netns.Named(namespaceName(l.Name(), name))}
	if err := load(filepath.Join(n.dir(), "node.json"), &n.record); err != nil {
		return nil, err
	}
	return n, n.loadPods()
}

// makeDirs makes the node's directory: its entry in the journal.
func (n *Node) makeDirs(dir string) error {
	for _, d := range []string{n.lab.dir.pods(n.Name), n.RunDir(), n.CNIConfDir(), n.CNIBinDir(), n.cacheDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := n.writeBGPConfig(n.lab.current()); err != nil {
		return err
	}
	return n.save()
}

func (n *Node) save() error { return save(filepath.Join(n.dir(), "node.json"), n.record) }

func (n *Node) dir() string { return n.lab.dir.node(n.Name) }

func (n *Node) port() string { return fmt.Sprintf("port%d", n.record.Number) }

// Netns returns the node's namespace.
func (n *Node) Netns() netns.Namespace { return n.ns }

// Uplink returns the name of the node's underlay interface.
func (n *Node) Uplink() string { return uplink }

// Addrs returns the node's underlay addresses, those of the lab's family, IPv4 first.
func (n *Node) Addrs() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	var addrs []netip.Addr
	if n.lab.options.Family.V4() {
		addrs = append(addrs, n.record.IPv4)
	}
	if n.lab.options.Family.V6() {
		addrs = append(addrs, n.record.IPv6)
	}
	return addrs
}

// RunDir returns the directory that the daemon has as --run-dir.
func (n *Node) RunDir() string { return filepath.Join(n.dir(), "run") }

// SubnetFile returns the file that the daemon has as --subnet-file.
func (n *Node) SubnetFile() string { return filepath.Join(n.dir(), "subnet.env") }

// CNIConfDir returns the directory that the daemon has as --cni-conf-dir.
func (n *Node) CNIConfDir() string { return filepath.Join(n.dir(), "cni", "conf") }

// CNIBinDir returns the directory that the daemon has as --cni-bin-dir.
func (n *Node) CNIBinDir() string { return filepath.Join(n.dir(), "cni", "bin") }

// HostLocalDir returns the directory that the daemon has as --host-local-dir; a test that attaches pods with the reference plugins has it as
// host-local's dataDir.
func (n *Node) HostLocalDir() string { return filepath.Join(n.dir(), "host-local") }

func (n *Node) cacheDir() string { return filepath.Join(n.dir(), "cni", "cache") }

// Do calls f on a thread inside the node's namespace; see netns.Namespace.Do.
func (n *Node) Do(f func() error) error { return n.ns.Do(f) }

// Command returns a command that runs inside the node's namespace.
func (n *Node) Command(ctx context.Context, name string, args ...string) *Cmd {
	return Command(ctx, n.ns, name, args...)
}

// HTTPClient returns a client whose connections come from inside the node's namespace. URLs name their host by IP address.
func (n *Node) HTTPClient() *http.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return n.ns.Dial(ctx, network, address)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// Pods returns the node's pods in the order of their names.
func (n *Node) Pods() []*Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.pods)
}

// Delete removes the node as if its machine had burnt down: daemon, pods, uplink and files are gone, and nobody is told. Its lease stays
// in etcd until it expires.
func (n *Node) Delete(ctx context.Context) error {
	namespaces := []netns.Namespace{n.ns}
	for _, p := range n.Pods() {
		namespaces = append(namespaces, p.ns)
	}
	if err := endProcesses(ctx, namespaces, n.lab.options.Log); err != nil {
		return fmt.Errorf("delete node %s: %w", n.Name, err)
	}
	// The kernel removes the cable some time after the namespace: take it away now, so that its name is free.
	failed := []error{n.removeCable()}
	for _, ns := range namespaces {
		failed = append(failed, ns.Remove())
	}
	if err := errors.Join(append(failed, os.RemoveAll(n.dir()))...); err != nil {
		return fmt.Errorf("delete node %s: %w", n.Name, err)
	}
	n.unlist()
	return nil
}
