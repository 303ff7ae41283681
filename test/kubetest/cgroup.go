package kubetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is one hierarchy of control groups: of version 1, with its controllers, or of version 2.
type cgroup struct {
	Mount   string // where the hierarchy is mounted
	Type    string // cgroup or cgroup2
	Options string // of the mount: controllers, of version 1
	Dir     string // the cell's group
}

// makeCgroups makes a group in each hierarchy, below that of this process.
func makeCgroups(name string) ([]cgroup, error) {
	all, err := cgroups()
	if err != nil {
		return nil, err
	}
	for i := range all {
		parent := all[i].Dir
		all[i].Dir = filepath.Join(parent, name)
		if err := os.Mkdir(all[i].Dir, 0o755); err != nil {
			return all[:i], fmt.Errorf("make a cgroup: %w", err)
		}
		if !strings.Contains(all[i].Options, "cpuset") {
			continue
		}
		// A new group has no processors and takes no process until it has (cpuset(7)).
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(parent, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(all[i].Dir, file), value, 0o644)
			}
			if err != nil {
				return all[:i+1], fmt.Errorf("set up a cgroup: %w", err)
			}
		}
	}
	return all, nil
}

// cgroups returns the hierarchies that are mounted, each with the group of this process.
func cgroups() ([]cgroup, error) {
	own, err := memberships()
	if err != nil {
		return nil, err
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	var all []cgroup
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		// 35 31 0:32 ROOT MOUNTPOINT rw,relatime [tags] - TYPE SOURCE OPTIONS (proc_pid_mountinfo(5))
		place, kind, ok := strings.Cut(lines.Text(), " - ")
		at, what := strings.Fields(place), strings.Fields(kind)
		if !ok || len(at) < 5 || len(what) < 3 || what[0] != "cgroup" && what[0] != "cgroup2" {
			continue
		}
		options := strings.TrimPrefix(strings.TrimPrefix(what[2], "rw"), ",")
		group, ok := own[options]
		if what[0] == "cgroup2" {
			group, ok = own[""]
			options = ""
		}
		if !ok {
			continue
		}
		all = append(all, cgroup{Mount: at[4], Type: what[0], Options: options, Dir: filepath.Join(at[4], strings.TrimPrefix(group, at[3]))})
	}
	return all, nil
}

// memberships returns the groups of this process by the controllers of the hierarchy.
func memberships() (map[string]string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			own[fields[1]] = fields[2]
		}
	}
	return own, nil
}

// join makes the calling process a member.
func (g cgroup) join() error {
	if err := os.WriteFile(filepath.Join(g.Dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("join a cgroup: %w", err)
	}
	return nil
}

// mount mounts the hierarchy, whose root is the cell's group in the cell, below a root directory.
func (g cgroup) mount(root string) error {
	at := filepath.Join(root, g.Mount)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	options := g.Options
	if strings.HasPrefix(options, "name=") {
		options = "none," + options
	}
	if err := unix.Mount("cgroup", at, g.Type, 0, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", g.Options, at, err)
	}
	return nil
}

// remove removes the group and those below, in which nothing runs any more. The kernel may take a moment to see that.
func (g cgroup) remove(patience time.Duration) error {
	return await(context.Background(), patience, "the end of cgroup "+g.Dir, func(context.Context) error { return removeGroups(g.Dir) })
}

func removeGroups(dir string) error {
	below, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range below {
		if e.IsDir() {
			err = errors.Join(err, removeGroups(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, unix.Rmdir(dir))
}
