//go:build linux

package host

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/twill-cni/twill/ctl/check"
	"github.com/twill-cni/twill/daemon/hostfile"
)

// lookAtConf reads the files that libcni reads.
func lookAtConf(f *check.Facts) error {
	all, err := hostfile.Configurations(f.ConfDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, c := range all {
		f.Confs = append(f.Confs, check.NetConf{Name: c.Name, Types: c.Types, Err: c.Err})
	}
	return err
}

// lookAtPlugins looks for Twill's and for loopback, which containerd runs for each pod. Without a directory twilld installs none, and where they are is not known.
func lookAtPlugins(f *check.Facts) error {
	if f.PluginsDir == "" {
		return errors.New("where the plugins are is not known: twilld installs none (--cni-bin-dir)")
	}
	for _, name := range []string{"twill", "twill-ipam", "loopback"} {
		file := filepath.Join(f.PluginsDir, name)
		p := check.Plugin{Name: name}
		info, err := os.Stat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.Err = errors.New("it is not there")
		case err != nil:
			p.Err = err
		case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
			p.Err = fmt.Errorf("it cannot be run (mode %s)", info.Mode())
		case name != "loopback":
			if built, err := buildinfo.ReadFile(file); err == nil {
				p.Version = revision(built)
			}
		}
		f.Plugins = append(f.Plugins, p)
	}
	return nil
}

// Version returns what the running program was built from; empty when that is not known.
func Version() string {
	built, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	return revision(built)
}

// revision is the commit, which `go build` notes in programs.
func revision(built *debug.BuildInfo) string {
	for _, s := range built.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return ""
}
