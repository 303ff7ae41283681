package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/plugins/netconf"
)

// PodOptions say how a pod is attached. The zero value of each field stands for its default.
type PodOptions struct {
	Name           string         // default "<node>-pod<number>"
	IfName         string         // default "eth0"
	CapabilityArgs map[string]any // what a runtime passes: "portMappings", "bandwidth", "ips", "mac", "dns" ...
	Args           [][2]string    // CNI_ARGS; default: those of a Kubernetes runtime, with the namespace and the name
	Namespace      string         // that the pod says to be in; default "default"
	Labels         map[string]string
	Ports          []netconf.PodPort // to which the pod gives names
	ConfList       json.RawMessage   // default: the conflist that the node's daemon wrote
	BinDirs        []string          // default: where the node's daemon installed the plugins
	Env            []string          // more environment for the plugins, as KEY=value
}

// defaultNamespace is that of pods that name none.
const defaultNamespace = "default"

// Pod is a network namespace that the CNI plugins attached to a node. Its methods may be called concurrently.
type Pod struct {
	Name string
	Node *Node

	ns     netns.Namespace
	record podRecord
}

// podRecord is the content of a pod's file. As in any runtime, DEL and CHECK get the very configuration that ADD got.
type podRecord struct {
	PodOptions
	ContainerID string
	Result      *current.Result
}

// AddPod makes a namespace and attaches it to the node with the CNI's ADD. A failure leaves no pod; the plugins' DEL is called then,
// as a runtime would.
func (n *Node) AddPod(ctx context.Context, options PodOptions) (*Pod, error) {
	p, err := n.newPod(options)
	if err != nil {
		return nil, fmt.Errorf("add pod %s to %s: %w", options.Name, n.Name, err)
	}
	if err := p.attach(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("add pod %s to %s: %w", p.Name, n.Name, err), p.Delete(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func (n *Node) newPod(options PodOptions) (*Pod, error) {
	if options.IfName == "" {
		options.IfName = "eth0"
	}
	if options.BinDirs == nil {
		options.BinDirs = []string{n.CNIBinDir()}
	}
	if options.ConfList == nil {
		list, err := n.ConfList()
		if err != nil {
			return nil, err
		}
		options.ConfList = list
	}
	list, err := withArgs(options.ConfList, options.Labels, options.Ports)
	if err != nil {
		return nil, err
	}
	options.ConfList = list
	n.lab.mu.Lock()
	if options.Name == "" {
		options.Name = n.freePodName()
	}
	if options.Args == nil {
		options.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", cmp.Or(options.Namespace, defaultNamespace)}, {"K8S_POD_NAME", options.Name}}
	}
	err = n.lab.checkMember("pod", options.Name)
	p := n.pod(options.Name)
	p.record = podRecord{PodOptions: options, ContainerID: p.ns.Name()}
	if err == nil {
		n.mu.Lock()
		n.pods = append(n.pods, p)
		sortPods(n.pods)
		n.mu.Unlock()
	}
	n.lab.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := claim(p.ns, p.file(), touch); err != nil {
		n.unlistPod(p)
		return nil, err
	}
	return p, nil
}

func (n *Node) pod(name string) *Pod {
	return &Pod{Name: name, Node: n, ns: netns.Named(namespaceName(n.lab.Name(), name))}
}

// freePodName returns the first "<node>-pod<number>" that no pod of the node has. The caller holds the lab's mu.
func (n *Node) freePodName() string {
	pods := n.Pods()
	for i := 1; ; i++ {
		name := fmt.Sprintf("%s-pod%d", n.Name, i)
		if !slices.ContainsFunc(pods, func(p *Pod) bool { return p.Name == name }) {
			return name
		}
	}
}

func (n *Node) unlistPod(p *Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods = slices.DeleteFunc(n.pods, func(other *Pod) bool { return other == p })
}

func (n *Node) loadPods() error {
	files, err := entries(n.lab.dir.pods(n.Name))
	if err != nil {
		return err
	}
	for _, file := range files {
		p := n.pod(strings.TrimSuffix(file, ".json"))
		if info, err := os.Stat(p.file()); err == nil && info.Size() == 0 {
			continue // another process attaches it right now, or was killed while it did
		}
		if err := load(p.file(), &p.record); err != nil {
			return err
		}
		n.pods = append(n.pods, p)
	}
	sortPods(n.pods)
	return nil
}

func sortPods(pods []*Pod) {
	slices.SortFunc(pods, func(a, b *Pod) int { // pod2 before pod10
		return cmp.Or(cmp.Compare(len(a.Name), len(b.Name)), strings.Compare(a.Name, b.Name))
	})
}

func (p *Pod) attach(ctx context.Context) error {
	lo, err := handle(p.ns)
	if err != nil {
		return err
	}
	defer lo.Close()
	if err := linkUp(lo, "lo"); err != nil {
		return err
	}
	return p.invoke(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, runtime *libcni.RuntimeConf) error {
		result, err := cni.AddNetworkList(ctx, list, runtime)
		if err != nil {
			return err
		}
		if p.record.Result, err = current.NewResultFromResult(result); err != nil {
			return fmt.Errorf("understand the result: %w", err)
		}
		return save(p.file(), p.record)
	})
}

// Check calls the plugins' CHECK.
func (p *Pod) Check(ctx context.Context) error {
	err := p.invoke(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, runtime *libcni.RuntimeConf) error {
		return cni.CheckNetworkList(ctx, list, runtime)
	})
	if err != nil {
		return fmt.Errorf("check pod %s: %w", p.Name, err)
	}
	return nil
}

// Detach calls the plugins' DEL and leaves the namespace. It may be repeated.
func (p *Pod) Detach(ctx context.Context) error {
	err := p.invoke(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, runtime *libcni.RuntimeConf) error {
		return cni.DelNetworkList(ctx, list, runtime)
	})
	if err != nil {
		return fmt.Errorf("detach pod %s: %w", p.Name, err)
	}
	return nil
}

// Delete ends the pod's processes, calls the plugins' DEL and removes the namespace. When DEL fails, the rest is done all the same.
func (p *Pod) Delete(ctx context.Context) error {
	return errors.Join(endProcesses(ctx, []netns.Namespace{p.ns}, p.Node.lab.options.Log), p.Detach(ctx), p.forget())
}

// Vanish removes the pod's namespace without telling the plugins, as a reboot or a lost DEL does.
func (p *Pod) Vanish(ctx context.Context) error {
	return errors.Join(endProcesses(ctx, []netns.Namespace{p.ns}, p.Node.lab.options.Log), p.forget())
}

func (p *Pod) forget() error {
	if err := errors.Join(p.ns.Remove(), os.RemoveAll(p.file()), os.RemoveAll(p.resolvConf())); err != nil {
		return fmt.Errorf("delete pod %s: %w", p.Name, err)
	}
	p.Node.unlistPod(p)
	return nil
}

func (p *Pod) file() string { return p.Node.lab.dir.pod(p.Node.Name, p.Name) }

// Netns returns the pod's namespace.
func (p *Pod) Netns() netns.Namespace { return p.ns }

// ContainerID returns the id that the plugins know the pod by.
func (p *Pod) ContainerID() string { return p.record.ContainerID }

// Namespace returns the namespace that the pod says to be in.
func (p *Pod) Namespace() string { return cmp.Or(p.record.Namespace, defaultNamespace) }

// IfName returns the name of the pod's interface.
func (p *Pod) IfName() string { return p.record.IfName }

// Result returns what the plugins' ADD answered. The caller does not change it.
func (p *Pod) Result() *current.Result { return p.record.Result }

// Addrs returns the pod's addresses, in the order of the plugins' result.
func (p *Pod) Addrs() []netip.Addr {
	return p.fromResult(func(ip *current.IPConfig) net.IP { return ip.Address.IP })
}

// Gateways returns the pod's gateways, one for each address that has one.
func (p *Pod) Gateways() []netip.Addr {
	return p.fromResult(func(ip *current.IPConfig) net.IP { return ip.Gateway })
}

func (p *Pod) fromResult(field func(*current.IPConfig) net.IP) []netip.Addr {
	if p.record.Result == nil {
		return nil
	}
	var addrs []netip.Addr
	for _, ip := range p.record.Result.IPs {
		if a, ok := netip.AddrFromSlice(field(ip)); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

// Do calls f on a thread inside the pod's namespace; see netns.Namespace.Do.
func (p *Pod) Do(f func() error) error { return p.ns.Do(f) }

// Command returns a command that runs inside the pod's namespace.
func (p *Pod) Command(ctx context.Context, name string, args ...string) *Cmd {
	return Command(ctx, p.ns, name, args...)
}
