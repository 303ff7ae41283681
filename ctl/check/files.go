package check

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

var fileRules = []rule{
	{"network configurations", "what container runtimes take, by name", []Part{Conf}, configurations},
	{"plugins", "the programs that container runtimes call", []Part{Plugins, Conf}, plugins},
}

// conflist is Twill's (hostfile.ConflistName).
const conflist = "10-twill.conflist"

// leading are plugins that run Twill's as others'.
var leading = []string{"twill", "multus", "multus-shim", "danm", "genie"}

func configurations(f *Facts) []Finding {
	var all []Finding
	for _, c := range f.Confs {
		if c.Name >= conflist || slices.ContainsFunc(c.Types, func(t string) bool { return slices.Contains(leading, t) }) {
			continue
		}
		file := path.Join(f.ConfDir, c.Name)
		what := fmt.Sprintf("%s, of %s, sorts before %s", file, strings.Join(c.Types, ", "), conflist)
		if c.Err != nil {
			what = fmt.Sprintf("%s, which sorts before %s, cannot be read: %v", file, conflist, c.Err)
		}
		all = append(all, fail(what, "container runtimes take it: new pods are not on Twill's network, and the node is not ready", fmt.Sprintf("once nothing needs it: mv %[1]s %[1]s.disabled", file)))
	}
	return all
}

func plugins(f *Facts) []Finding {
	var all []Finding
	announced := slices.ContainsFunc(f.Confs, func(c NetConf) bool { return c.Name == conflist })
	for _, p := range f.Plugins {
		file := path.Join(f.PluginsDir, p.Name)
		switch {
		case p.Err == nil && (p.Name == "loopback" || p.Version == f.Version || p.Version == "" || f.Version == ""):
		case p.Err == nil:
			all = append(all, warn(fmt.Sprintf("%s was built from %s, twillctl from %s", file, p.Version, f.Version), "the node has two versions of Twill", "twilld --install"))
		case p.Name == "loopback":
			all = append(all, warn(fmt.Sprintf("%s: %v", file, p.Err), "containerd starts no pods, unless it brings up loopback interfaces by itself (use_internal_loopback)", "install the reference CNI plugins there (package containernetworking-plugins)"))
		case announced:
			all = append(all, fail(fmt.Sprintf("%s: %v", file, p.Err), "no pod can be attached, and none detached", "twilld --install"))
		default:
			all = append(all, warn(fmt.Sprintf("%s: %v", file, p.Err), "no pod can be attached; twilld installs it where it runs in a pod", "twilld --install"))
		}
	}
	return all
}
