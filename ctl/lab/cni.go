package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
)

// ConfList returns the conflist that the node's daemon wrote. It wraps os.ErrNotExist when there is none yet.
func (n *Node) ConfList() ([]byte, error) {
	files, err := libcni.ConfFiles(n.CNIConfDir(), []string{".conflist"})
	if err != nil {
		return nil, fmt.Errorf("find the conflist of %s: %w", n.Name, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("find the conflist of %s in %s: %w", n.Name, n.CNIConfDir(), os.ErrNotExist)
	}
	slices.Sort(files) // as a runtime does: the first by name counts
	text, err := os.ReadFile(filepath.Clean(files[0]))
	if err != nil {
		return nil, fmt.Errorf("read the conflist of %s: %w", n.Name, err)
	}
	return text, nil
}

// CNI calls f inside the node's namespace with libcni set up as a runtime on that node has it: for STATUS, GC, VERSION and whatever
// else pods do not cover.
func (n *Node) CNI(f func(*libcni.CNIConfig, *libcni.NetworkConfigList) error) error {
	text, err := n.ConfList()
	if err != nil {
		return err
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return fmt.Errorf("read the conflist of %s: %w", n.Name, err)
	}
	return n.Do(func() error {
		return f(libcni.NewCNIConfigWithCacheDir([]string{n.CNIBinDir()}, n.cacheDir(), plugins(nil)), list)
	})
}

// invoke calls f inside the node's namespace, where a runtime calls the plugins, with what libcni needs for this pod.
func (p *Pod) invoke(f func(*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) error {
	list, err := libcni.NetworkConfFromBytes(p.record.ConfList)
	if err != nil {
		return fmt.Errorf("read the conflist: %w", err)
	}
	runtime := &libcni.RuntimeConf{
		ContainerID:    p.record.ContainerID,
		NetNS:          p.ns.Path(),
		IfName:         p.record.IfName,
		Args:           p.record.Args,
		CapabilityArgs: p.record.CapabilityArgs,
	}
	cni := libcni.NewCNIConfigWithCacheDir(p.record.BinDirs, p.Node.cacheDir(), plugins(p.record.Env))
	return p.Node.Do(func() error { return f(cni, list, runtime) })
}

// executor runs plugins for libcni, with more environment. The thread that calls libcni is in the node's namespace, and so is the plugin.
type executor struct {
	*invoke.DefaultExec
	env []string
}

func plugins(env []string) invoke.Exec {
	// Without a writer, what a plugin prints on standard error is part of its error and does not disturb the caller's output.
	return executor{DefaultExec: &invoke.DefaultExec{RawExec: &invoke.RawExec{}}, env: env}
}

// ExecPlugin runs one plugin; see invoke.Exec.
func (e executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	return e.DefaultExec.ExecPlugin(ctx, path, stdin, slices.Concat(environ, e.env))
}
