package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// directory is a lab's place on disk:
//
//	lab.json                    the options, and whether Up came to its end
//	underlay                    empty: the underlay's namespace is ours
//	etcd/{data,log,pid}         router/{config.json,log,pid}
//	nodes/NODE/node.json        twilld.log twilld.pid subnet.env bgp.yaml run/ cni/{conf,bin,cache}/
//	nodes/NODE/pods/POD.json    empty until the pod is attached
type directory string

// mountMarker is where the labs of a machine note that they made the mount of the namespaces' directory.
const mountMarker = "/run/twill-lab.netns-mount"

// labFile is the content of lab.json.
type labFile struct {
	Options
	Complete bool // Up has succeeded
}

func (d directory) lab() string                      { return filepath.Join(string(d), "lab.json") }
func (d directory) underlay() string                 { return filepath.Join(string(d), "underlay") }
func (d directory) service(name, file string) string { return filepath.Join(string(d), name, file) }
func (d directory) nodes() string                    { return filepath.Join(string(d), "nodes") }
func (d directory) node(n string) string             { return filepath.Join(d.nodes(), n) }
func (d directory) pods(node string) string          { return filepath.Join(d.node(node), "pods") }
func (d directory) pod(node, p string) string        { return filepath.Join(d.pods(node), p+".json") }

// exists reports whether anything of the lab is there.
func (d directory) exists() bool {
	_, err := os.Lstat(string(d))
	return err == nil
}

// namespaces returns all namespaces that the lab has or was about to make. Missing directories have none.
func (d directory) namespaces() ([]netns.Namespace, error) {
	if !d.exists() {
		return nil, nil
	}
	name := filepath.Base(string(d))
	var all []netns.Namespace
	if _, err := os.Lstat(d.underlay()); err == nil {
		all = append(all, netns.Named(underlayNamespace(name)))
	}
	nodes, err := entries(d.nodes())
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		pods, err := entries(d.pods(node))
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			all = append(all, netns.Named(namespaceName(name, strings.TrimSuffix(pod, ".json"))))
		}
		all = append(all, netns.Named(namespaceName(name, node)))
	}
	return all, nil
}

// claim makes a namespace and, before it, its entry in the journal: the file or directory entry, which mark makes. A name that is
// taken is left alone and gets no entry, so that removing the lab can never remove a namespace of somebody else's.
func claim(ns netns.Namespace, entry string, mark func(entry string) error) error {
	if ns.Exists() {
		return fmt.Errorf("make network namespace %s: %w", ns.Name(), os.ErrExist)
	}
	if err := mark(entry); err != nil {
		return fmt.Errorf("record network namespace %s: %w", ns.Name(), err)
	}
	_, err := netns.Create(ns.Name())
	if errors.Is(err, os.ErrExist) {
		return errors.Join(err, os.RemoveAll(entry))
	}
	return err
}

// touch makes an empty file that must not be there yet.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func namespaceName(lab, member string) string { return lab + "-" + member }
func underlayNamespace(lab string) string     { return namespaceName(lab, "underlay") }

// entries lists a directory, which need not exist.
func entries(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the lab's state: %w", err)
	}
	var names []string
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), temporary) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

const temporary = ".new"

// save replaces path as a whole: a reader, now or after a crash, sees the old record or the new one.
func save(path string, record any) error {
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	if err := os.WriteFile(path+temporary, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	if err := os.Rename(path+temporary, path); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

func load(path string, record any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("load the lab's state: %w", err)
	}
	if err := json.Unmarshal(text, record); err != nil {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// lock makes the lab's directory and takes it for this caller alone: two that make or remove the same lab at the same time would
// undo each other's work. When another has it, it fails after a moment's patience: a holder that was killed while it
// started a program has it until that program runs, for the descriptor closes with exec.
func (d directory) lock() (unlock func(), err error) {
	const patience, pause = 2 * time.Second, 10 * time.Millisecond
	for begin := time.Now(); ; {
		if err := os.MkdirAll(string(d), 0o755); err != nil {
			return nil, fmt.Errorf("make the lab's directory: %w", err)
		}
		f, err := os.Open(string(d))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed by the one that had it
		}
		if err != nil {
			return nil, fmt.Errorf("lock the lab: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) && time.Since(begin) < patience {
				time.Sleep(pause)
				continue
			}
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%w (%s)", ErrBusy, d)
			}
			return nil, fmt.Errorf("lock the lab: %w", err)
		}
		if same(f, string(d)) {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}

func same(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(open, there)
}

// Info is what List knows of a lab.
type Info struct {
	Name     string   `json:"name"`
	Complete bool     `json:"complete"` // Up succeeded; otherwise it is still at work, or it was killed
	Nodes    []string `json:"nodes"`
}

// List returns the labs that have something on this machine, sorted by name. An empty stateDir stands for the default.
func List(stateDir string) ([]Info, error) {
	if stateDir == "" {
		stateDir = defaultStateDir
	}
	names, err := entries(stateDir)
	if err != nil {
		return nil, err
	}
	labs := []Info{}
	for _, name := range names {
		dir := directory(filepath.Join(stateDir, name))
		if checkName("lab", name) != nil || !isDir(string(dir)) {
			continue
		}
		info := Info{Name: name, Nodes: []string{}}
		var file labFile
		if load(dir.lab(), &file) == nil {
			info.Complete = file.Complete
		}
		nodes, err := entries(dir.nodes())
		if err != nil {
			return nil, err
		}
		info.Nodes = append(info.Nodes, nodes...)
		labs = append(labs, info)
	}
	slices.SortFunc(labs, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return labs, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
