package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/test/e2e/harness"
)

// call is one call of the plugin that a node's daemon installed, with the configuration that it wrote, without libcni and its cache
// in between: for what a runtime does when something went wrong before.
type call struct {
	node          *lab.Node
	id            string
	netns         string         // CNI_NETNS
	args          string         // CNI_ARGS
	runtimeConfig map[string]any // what a runtime makes of capabilities
	config        map[string]any // keys that replace those of the daemon's configuration; nil removes one
	program       string         // default: the installed plugin
	env           []string
}

// netConf returns the plugin's configuration, as a runtime makes it from the daemon's conflist.
func (c call) netConf(t *testing.T) map[string]any {
	t.Helper()
	text, err := c.node.ConfList()
	must(t, err)
	var list struct {
		Name    string
		Plugins []map[string]any
	}
	must(t, json.Unmarshal(text, &list))
	if len(list.Plugins) != 1 {
		t.Fatalf("want one plugin in %s", text)
	}
	conf := list.Plugins[0]
	conf["name"], conf["cniVersion"] = list.Name, "1.1.0"
	if c.runtimeConfig != nil {
		conf["runtimeConfig"] = c.runtimeConfig
	}
	maps.Copy(conf, c.config)
	maps.DeleteFunc(conf, func(_ string, value any) bool { return value == nil })
	return conf
}

// do calls the plugin with a verb. The error is the plugin's own when it printed one.
func (c call) do(t *testing.T, verb string) ([]byte, error) {
	t.Helper()
	conf, err := json.Marshal(c.netConf(t))
	must(t, err)
	program := c.program
	if program == "" {
		program = filepath.Join(c.node.CNIBinDir(), "twill")
	}
	cmd := c.node.Command(t.Context(), program)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+c.id, "CNI_NETNS="+c.netns, "CNI_IFNAME=eth0",
		"CNI_PATH="+c.node.CNIBinDir()+":"+peersDir, "CNI_ARGS="+c.args)
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Stdin = bytes.NewReader(conf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	theirs := &types.Error{}
	if json.Unmarshal(out, theirs) == nil && theirs.Msg != "" {
		return out, theirs
	}
	return out, fmt.Errorf("%s: %w: %s%s", verb, err, out, stderr.Bytes())
}

// add attaches and returns the result.
func (c call) add(t *testing.T) *current.Result {
	t.Helper()
	out, err := c.do(t, "ADD")
	must(t, err)
	result, err := current.NewResult(out)
	must(t, err)
	r, err := current.GetResult(result)
	must(t, err)
	return r
}

// wantCode checks for an error with a code, whose text names something.
func wantCode(t *testing.T, err error, code uint, names string) {
	t.Helper()
	theirs, ok := err.(*types.Error)
	if !ok || theirs.Code != code || !strings.Contains(theirs.Error(), names) {
		t.Errorf("have %v, want an error of code %d that names %q", err, code, names)
		if ok {
			t.Logf("its code is %d", theirs.Code)
		}
	}
}

// sandbox makes a namespace such as a runtime makes for a pod.
func sandbox(t *testing.T) netns.Namespace {
	t.Helper()
	ns, err := netns.Create(harness.Unique(runName + "pod"))
	must(t, err)
	t.Cleanup(func() {
		if err := ns.Remove(); err != nil {
			t.Error(err)
		}
	})
	sh(t, ns, "ip link set lo up")
	return ns
}

// traces lists everything on a node that belongs to some attachment: links, host ports, records and leases. What an ADD has made and its
// DEL has removed is a difference of nothing.
func traces(t *testing.T, n *lab.Node) string {
	t.Helper()
	text := sh(t, n.Netns(), fmt.Sprintf(`
		ip -d -o link | sed -n 's/^[0-9]*: \([^:@]*\).* alias \(twill-pod\|twill-shaper\)\(.*\)/link \1\3/p; /\bveth.*master cni0/!d' | grep ^link || true
		ip -o link show master cni0 | sed 's/^[0-9]*: \([^:@]*\).*/port \1/'
		ip -o link show type ifb | sed 's/^[0-9]*: \([^:@]*\).*/ifb \1/'
		nft list table inet twill-hostports 2>/dev/null | tr '\n\t' '  ' |
			sed 's/set bridges {[^}]*{[^}]*}//; s/set turn {[^}]*{[^}]*}//' | grep -o 'elements = {[^}]*}' || true
		cd %s; find . -type f -path '*/attachments/*' -o -type f -path '*/leases/*' -o -type f -path '*/addresses/*' | sort`, n.RunDir()))
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n")
}
