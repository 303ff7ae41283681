package lab

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twill-cni/twill/ctl/lab/process"
)

// daemonAddress is where the daemon serves its health and its metrics: every node has a loopback of its own, so it is the same on
// all nodes.
var daemonAddress = netip.MustParseAddrPort("127.0.0.1:10270")

// StartDaemon starts twilld, with what it finds on disk from an earlier run, and does not wait: see Ready. When it runs already, or when the
// node is one without a daemon, nothing happens.
func (n *Node) StartDaemon() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.record.NoDaemon || n.DaemonRunning() {
		return nil
	}
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start the daemon of %s: %w", n.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(cmp.Or(n.record.Program, filepath.Join(n.lab.options.BinDir, "twilld")), n.daemonArgs()...)
	cmd.Env = n.daemonEnv(os.Environ())
	cmd.Dir = n.dir()
	cmd.Stdout, cmd.Stderr = log, log
	err = n.Do(func() error {
		_, err := process.Start(cmd, n.pidfile())
		return err
	})
	if err != nil {
		return fmt.Errorf("start the daemon of %s: %w", n.Name, err)
	}
	return nil
}

func (n *Node) daemonArgs() []string {
	args := []string{
		"--backend=" + n.record.Backend,
		"--etcd-endpoints=" + strings.Join(n.lab.etcd.Endpoints(), ","),
		"--iface=" + uplink,
		"--node-name=" + n.Name,
		"--subnet-file=" + n.SubnetFile(),
		"--run-dir=" + n.RunDir(),
		"--cni-conf-dir=" + n.CNIConfDir(),
		"--cni-bin-dir=" + n.CNIBinDir(),
		"--host-local-dir=" + n.HostLocalDir(),
		"--health-address=" + daemonAddress.String(),
		"--metrics-address=" + daemonAddress.String(),
	}
	if n.lab.options.Proxy != "" {
		args = append(args, "--proxy="+n.lab.options.Proxy)
	}
	if n.record.Backend == BGP {
		args = append(args, "--bgp-config="+n.BGPConfigFile())
	}
	return slices.Concat(args, n.lab.options.DaemonArgs, n.record.Args)
}

// daemonEnv is the caller's environment without the settings that would reach every daemon by accident.
func (n *Node) daemonEnv(environ []string) []string {
	environ = slices.DeleteFunc(slices.Clone(environ), func(kv string) bool { return strings.HasPrefix(kv, "TWILL") })
	return slices.Concat(environ, n.lab.options.DaemonEnv, n.record.Env)
}

// Backend returns what the daemon has, or will have when it starts next, as --backend.
func (n *Node) Backend() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.record.Backend
}

// SetDaemon changes how the next StartDaemon starts the daemon: options' Program, Args and Env replace those of the node.
func (n *Node) SetDaemon(options NodeOptions) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.record.Program, n.record.Args, n.record.Env = options.Program, options.Args, options.Env
	return n.save()
}

// StopDaemon asks the daemon to end (SIGTERM) and waits until it has; it is killed when it takes more than 5 s.
func (n *Node) StopDaemon(ctx context.Context) error {
	return n.tellDaemon("stop", func(id process.ID) error { return id.Stop(ctx, patience) })
}

// KillDaemon ends the daemon at once (SIGKILL) and waits until it is gone.
func (n *Node) KillDaemon(ctx context.Context) error {
	return n.tellDaemon("kill", func(id process.ID) error { return id.Kill(ctx) })
}

// SignalDaemon sends a signal to the daemon, for example SIGSTOP or SIGHUP.
func (n *Node) SignalDaemon(sig syscall.Signal) error {
	return n.tellDaemon("signal", func(id process.ID) error { return id.Signal(sig) })
}

// tellDaemon does nothing when no daemon was ever started.
func (n *Node) tellDaemon(what string, f func(process.ID) error) error {
	id, err := process.Read(n.pidfile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = f(id)
	}
	if err != nil {
		return fmt.Errorf("%s the daemon of %s: %w", what, n.Name, err)
	}
	return nil
}

// DaemonPID returns the number of the daemon's process; 0 when it does not run.
func (n *Node) DaemonPID() int {
	id, err := process.Read(n.pidfile())
	if err != nil || !id.Alive() {
		return 0
	}
	return id.PID
}

// DaemonRunning reports whether the daemon's process lives.
func (n *Node) DaemonRunning() bool { return n.DaemonPID() != 0 }

func (n *Node) pidfile() string { return filepath.Join(n.dir(), "twilld.pid") }

// LogFile returns the file that holds what the node's daemons have printed, all runs one after the other.
func (n *Node) LogFile() string { return filepath.Join(n.dir(), "twilld.log") }

// DaemonLog returns what the node's daemons have printed.
func (n *Node) DaemonLog() (string, error) {
	text, err := os.ReadFile(n.LogFile())
	if err != nil {
		return "", fmt.Errorf("read the log of %s: %w", n.Name, err)
	}
	return string(text), nil
}

// Ready waits until the daemon says that it is ready, at most for Options.ReadyTimeout. The error holds what the daemon said last
// and the end of its log. A node without a daemon is ready.
func (n *Node) Ready(ctx context.Context) error {
	n.mu.Lock()
	noDaemon := n.record.NoDaemon
	n.mu.Unlock()
	if noDaemon {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.lab.options.ReadyTimeout)
	defer cancel()
	err := n.poll(ctx)
	if err != nil {
		return fmt.Errorf("wait for the daemon of %s: %w%s", n.Name, err, tail(n.LogFile()))
	}
	return nil
}

// poll asks often at first, less often later: two hundred daemons that start together need the processor for themselves.
func (n *Node) poll(ctx context.Context) error {
	const often, seldom = 10 * time.Millisecond, 300 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for pause := often; ; pause = min(seldom, pause*5/4) {
		select {
		case <-ctx.Done():
			return errors.Join(last, ctx.Err())
		case <-timer.C:
		}
		_, err := n.Get(ctx, n.HealthURL("/readyz"))
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		if !n.DaemonRunning() {
			return errors.New("its process has ended")
		}
		timer.Reset(pause)
	}
}

// HealthURL returns the URL of a path, such as "/readyz", that the daemon serves, as seen from inside the node.
func (n *Node) HealthURL(path string) string { return "http://" + daemonAddress.String() + path }

// MetricsURL returns the URL of the daemon's metrics, as seen from inside the node.
func (n *Node) MetricsURL() string { return "http://" + daemonAddress.String() + "/metrics" }

// Get fetches a URL from inside the node. An answer other than 200 is an error that holds its text.
func (n *Node) Get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s on %s: %w", url, n.Name, err)
	}
	response, err := n.HTTPClient().Do(request)
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", n.Name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("get %s on %s: %w", url, n.Name, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s on %s: %s: %s", url, n.Name, response.Status, bytes.TrimSpace(body))
	}
	return body, nil
}

// tail renders the last lines of a log, for the end of an error's text.
func tail(path string) string {
	const lines = 15
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf(" (no log: %v)", err)
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(text) == 0 {
		return " (" + path + " is empty)"
	}
	last := all[max(0, len(all)-lines):]
	return fmt.Sprintf("; the end of %s:\n    %s", path, strings.Join(last, "\n    "))
}
