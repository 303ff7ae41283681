package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// limit bounds every wait for a program under test.
const limit = 3 * time.Minute

// daemonCommand starts a node daemon on eth0 of the sandbox.
type daemonCommand struct {
	name string
	args []string
}

func (b bench) twilld() daemonCommand {
	return daemonCommand{"twilld", []string{b.program("twilld"), "--backend=vxlan", "--etcd-endpoints=" + etcdEndpoint, "--iface=eth0", "--node-name=bench",
		"--subnet-file=/run/twill/subnet.env", "--run-dir=/run/twill", "--cni-conf-dir=/run/cni-conf", "--cni-bin-dir=",
		"--health-address=", "--metrics-address=", "--ip-masq=false", "--log-level=warn"}}
}

func (b bench) flanneld() daemonCommand {
	return daemonCommand{"flanneld", []string{b.peer("flannel"), "-etcd-endpoints=" + etcdEndpoint, "-iface=eth0",
		"-subnet-file=/run/flannel/subnet.env", "-ip-masq=false"}}
}

// daemon is a running daemonCommand.
type daemon struct {
	cmd *exec.Cmd
	log bytes.Buffer
}

func (c daemonCommand) start() (*daemon, error) {
	d := &daemon{cmd: exec.Command(c.args[0], c.args[1:]...)}
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.Env = append(os.Environ(), "NODE_NAME=bench")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return d, d.cmd.Start()
}

// stop kills the daemon and removes what it made, as if the host were new.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = d.cmd.Wait() // it was killed: its status says so
	for _, name := range []string{"flannel.1", "cni0"} {
		if link, err := netlink.LinkByName(name); err == nil {
			if err := netlink.LinkDel(link); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
	}
	return errors.Join(os.RemoveAll("/run/twill"), os.RemoveAll("/run/flannel"), os.RemoveAll("/run/cni-conf"))
}

// failed adds the end of the daemon's log to the error. The daemon is killed first, so that its log is complete.
func (d *daemon) failed(err error) error {
	_ = d.cmd.Process.Kill() // it may have ended by itself
	_ = d.cmd.Wait()
	text := d.log.Bytes()
	return fmt.Errorf("%s: %w; its last words: %s", filepath.Base(d.cmd.Path), err, text[max(0, len(text)-2000):])
}

func runPeers(b bench) error { return withCluster(b.coldStarts) }

func runJoin(b bench) error { return withCluster(b.laterPeers) }

// withCluster prepares the sandbox and runs measure with an empty cluster.
func withCluster(measure func(context.Context, *cluster) error) error {
	if err := settle(); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	return measure(ctx, c)
}

// A trial is one measured run of a program.
type trial struct {
	wall time.Duration
	cpu  time.Duration
	peak int64 // bytes
}

// middle returns the trial with the median time: what stands beside that time was used in it.
func middle(trials []trial) trial {
	sorted := slices.SortedFunc(slices.Values(trials), func(a, b trial) int { return cmp.Compare(a.wall, b.wall) })
	return sorted[len(sorted)/2]
}

func (b bench) coldStarts(ctx context.Context, c *cluster) error {
	rows := [][]string{{"cold start", "time", "CPU", "peak memory"}}
	commands := []daemonCommand{b.flanneld(), b.twilld()}
	have := 0
	for _, n := range []int{b.scale(5000), b.scale(20000)} {
		if err := c.join(ctx, have, n-have); err != nil {
			return err
		}
		have = n
		trials := make([][]trial, len(commands))
		for range 3 { // in turns
			for i, command := range commands {
				t, err := coldStart(command, n)
				if err != nil {
					return err
				}
				trials[i] = append(trials[i], t)
			}
		}
		theirs, ours := middle(trials[0]), middle(trials[1])
		for i, t := range []trial{theirs, ours} {
			rows = append(rows, []string{fmt.Sprintf("%s, %d peers", commands[i].name, n), ms(t.wall), ms(t.cpu), mib(t.peak)})
		}
		rows = append(rows, []string{"  flanneld / twilld", ratio(theirs.wall, ours.wall), ratio(theirs.cpu, ours.cpu), ratio(theirs.peak, ours.peak)})
	}
	table(rows...)
	return nil
}

// coldStart measures from the start of the process to the last notification of the kernel.
func coldStart(command daemonCommand, n int) (trial, error) {
	o, err := observe()
	if err != nil {
		return trial{}, err
	}
	defer o.close()
	start := time.Now()
	d, err := command.start()
	if err != nil {
		return trial{}, err
	}
	if err := o.wait(n, limit); err != nil {
		return trial{}, d.failed(err)
	}
	took := time.Since(start)
	used, err := processUsage(d.cmd.Process.Pid)
	return trial{took, used.cpu, used.peak}, errors.Join(err, d.stop())
}

// laterPeers measures 1,000 peers that join a node which knows none, and one which knows 20,000, in turns. Beside it stands what the same
// messages cost without a daemon: a new route costs the kernel more the more there are on its device, since it looks for one with the same
// next hop, and the gateway has no part in the hash (fib_info_hash_bucket in net/ipv4/fib_semantics.c).
func (b bench) laterPeers(ctx context.Context, c *cluster) error {
	joiners := b.scale(1000)
	before := []int{0, b.scale(20000)}
	var walls, cpus, alone [2]samples
	for range 5 {
		for i, n := range before {
			wall, cpu, err := b.join(ctx, c, n, joiners)
			if err != nil {
				return err
			}
			bare, err := kernelAlone(ctx, n, joiners)
			if err != nil {
				return err
			}
			walls[i], cpus[i], alone[i] = append(walls[i], wall), append(cpus[i], cpu), append(alone[i], bare)
		}
	}
	rows := [][]string{{fmt.Sprintf("%d peers join", joiners), "time", "CPU", "CPU of the kernel alone"}}
	last := []string{"  many / none"}
	for i, n := range before {
		rows = append(rows, []string{fmt.Sprintf("twilld with %d peers", n), ms(walls[i].quantile(.5)), ms(cpus[i].quantile(.5)), ms(alone[i].quantile(.5))})
	}
	for _, s := range [][2]samples{walls, cpus, alone} {
		last = append(last, ratio(s[1].quantile(.5), s[0].quantile(.5)))
	}
	table(append(rows, last)...)
	return nil
}

func (b bench) join(ctx context.Context, c *cluster, n, joiners int) (wall, cpu time.Duration, err error) {
	if err := c.empty(ctx); err != nil {
		return 0, 0, err
	}
	if err := c.join(ctx, 0, n); err != nil {
		return 0, 0, err
	}
	o, err := observe()
	if err != nil {
		return 0, 0, err
	}
	defer o.close()
	d, err := b.twilld().start()
	if err != nil {
		return 0, 0, err
	}
	// A first joiner shows that the daemon is at work, also where there are no peers yet.
	if err := c.join(ctx, n, 1); err != nil {
		return 0, 0, err
	}
	if err := o.wait(n+1, limit); err != nil {
		return 0, 0, d.failed(err)
	}
	before, err := d.rested()
	if err != nil {
		return 0, 0, d.failed(err)
	}
	start := time.Now()
	if err := c.join(ctx, n+1, joiners); err != nil {
		return 0, 0, err
	}
	if err := o.wait(n+1+joiners, limit); err != nil {
		return 0, 0, d.failed(err)
	}
	wall = time.Since(start)
	after, err := d.rested()
	return wall, after - before, errors.Join(err, d.stop())
}

// rested returns the processor time that the daemon has used once it uses no more: what follows the last notification, such as the
// garbage's collection, belongs to the work before.
func (d *daemon) rested() (time.Duration, error) { return restedProcess(d.cmd.Process.Pid) }

func restedProcess(pid int) (time.Duration, error) {
	last, err := processorTime(pid)
	for end := time.Now().Add(limit); err == nil; {
		time.Sleep(200 * time.Millisecond)
		var now time.Duration
		if now, err = processorTime(pid); err == nil && now-last < 200*time.Microsecond {
			return now, nil
		}
		if last = now; time.Now().After(end) {
			return 0, fmt.Errorf("it did not come to rest in %s", limit)
		}
	}
	return 0, err
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
