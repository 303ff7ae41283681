package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// The example of deploy/ is a configuration that twilld runs with: only what differs on a node of the lab is given by flags.
func TestExampleConfiguration(t *testing.T) {
	t.Parallel()
	example, err := filepath.Abs("../../deploy/twilld.yaml")
	must(t, err)
	l := newLab(t, lab.Options{Nodes: 1, PodsPerNode: 2, DaemonArgs: []string{"--config=" + example}})
	must(t, l.Up(t.Context()))
	wantMatrix(t, l)
	t.Run("with every key that is commented out", func(t *testing.T) {
		text, err := os.ReadFile(example)
		must(t, err)
		whole := regexp.MustCompile(`(?m)^# ([a-z-]+: .+)$`).ReplaceAllString(string(text), "$1")
		file := filepath.Join(t.TempDir(), "twilld.yaml")
		must(t, os.WriteFile(file, []byte(whole), 0o600))
		o := runTwilld(t, sandbox(t), t.TempDir(), nil, "--config="+file)
		if o.code != 2 || strings.Contains(o.stderr, "unknown") {
			t.Errorf("exit code %d: %s", o.code, o.stderr)
		}
	})
}

// flags are those that docs/architecture.md promises.
const flags = `backend datastore etcd-endpoints etcd-prefix etcd-cafile etcd-certfile etcd-keyfile etcd-username etcd-password kubeconfig
	node-name net-conf iface iface-regex public-ip public-ipv6 ip-masq subnet-file run-dir cni-conf-dir cni-bin-dir health-address
	metrics-address proxy policy bgp-config log-level log-format cleanup config`

func TestHelpHasEveryFlag(t *testing.T) {
	o := finish(t, exec.Command(filepath.Join(binDir, "twilld"), "--help"))
	o.wantOK(t)
	for _, flag := range strings.Fields(flags) {
		if !regexp.MustCompile(`(?m)^\s+(-\w, )?--` + flag + `\b`).MatchString(o.stdout) {
			t.Errorf("--%s is not in the help", flag)
		}
	}
	version := finish(t, exec.Command(filepath.Join(binDir, "twilld"), "--version"))
	version.wantOK(t)
	if !strings.HasPrefix(version.stdout, "twilld ") {
		t.Errorf("--version prints %q", version.stdout)
	}
}

// systemd understands every line of the unit.
func TestSystemdUnit(t *testing.T) {
	unit := "../../deploy/twilld.service"
	text, err := os.ReadFile(unit)
	must(t, err)
	for _, line := range []string{"ExecStart=/usr/local/bin/twilld --config /etc/twill/twilld.yaml", "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE",
		"Restart=always", "RestartPreventExitStatus=2"} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("the unit has no line %s", line)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("there is no systemd-analyze here: the directives are not checked")
		return
	}
	// The program must exist where the unit says, or systemd complains of that.
	dir := t.TempDir()
	checked := filepath.Join(dir, "twilld.service")
	must(t, os.WriteFile(checked, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/twilld", filepath.Join(binDir, "twilld"))), 0o644))
	out, err := exec.Command(analyze, "verify", "--man=no", checked).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, checked) || strings.Contains(line, "twilld.service") {
			t.Errorf("%s", line)
		}
	}
	t.Logf("systemd-analyze verify: %v %s", err, out)
}

// The Dockerfile builds the programs that the Makefile builds, and starts the daemon.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("../../deploy/Dockerfile")
	must(t, err)
	for _, part := range []string{"CGO_ENABLED=0", "./plugins/twill ", "./ipam/twill-ipam ", "./daemon/twilld ", "./ctl/twillctl", "FROM scratch",
		`ENTRYPOINT ["/usr/bin/twilld"]`} {
		if !strings.Contains(string(text)+" ", part) {
			t.Errorf("the Dockerfile has no %s", part)
		}
	}
}
