package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

func runPeers(b bench) error {
	if err := settle(); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := b.coldStarts(ctx, c); err != nil {
		return err
	}
	return b.laterPeers(ctx, c)
}

func (b bench) coldStarts(ctx context.Context, c *cluster) error {
	rows := [][]string{{"cold start", "time", "CPU", "peak memory"}}
	have := 0
	for _, n := range []int{b.scale(5000), b.scale(20000)} {
		if err := c.join(ctx, have, n-have); err != nil {
			return err
		}
		have = n
		var medians []time.Duration
		for _, command := range []daemonCommand{b.flanneld(), b.twilld()} {
			var times samples
			var used usage
			for range 3 {
				took, u, err := coldStart(command, n)
				if err != nil {
					return err
				}
				times, used = append(times, took), u
			}
			medians = append(medians, times.quantile(.5))
			rows = append(rows, []string{fmt.Sprintf("%s, %d peers", command.name, n), ms(times.quantile(.5)), ms(used.cpu), mib(used.peak)})
		}
		rows = append(rows, []string{"  flanneld / twilld", ratio(medians[0], medians[1])})
	}
	table(rows...)
	return nil
}

// coldStart measures from the start of the process to the last notification of the kernel.
func coldStart(command daemonCommand, n int) (time.Duration, usage, error) {
	o, err := observe()
	if err != nil {
		return 0, usage{}, err
	}
	defer o.close()
	start := time.Now()
	d, err := command.start()
	if err != nil {
		return 0, usage{}, err
	}
	if err := o.wait(n, limit); err != nil {
		return 0, usage{}, d.failed(err)
	}
	took := time.Since(start)
	used, err := processUsage(d.cmd.Process.Pid)
	return took, used, errors.Join(err, d.stop())
}

// laterPeers measures 1,000 peers that join a node which knows none, and one which knows 20,000.
func (b bench) laterPeers(ctx context.Context, c *cluster) error {
	joiners := b.scale(1000)
	rows := [][]string{{fmt.Sprintf("%d peers join", joiners), "time", "CPU"}}
	var walls, cpus []time.Duration
	for _, n := range []int{0, b.scale(20000)} {
		var times, cpu samples
		for range 3 {
			wall, used, err := b.join(ctx, c, n, joiners)
			if err != nil {
				return err
			}
			times, cpu = append(times, wall), append(cpu, used)
		}
		walls, cpus = append(walls, times.quantile(.5)), append(cpus, cpu.quantile(.5))
		rows = append(rows, []string{fmt.Sprintf("twilld with %d peers", n), ms(times.quantile(.5)), ms(cpu.quantile(.5))})
	}
	rows = append(rows, []string{"  many / none", ratio(walls[1], walls[0]), ratio(cpus[1], cpus[0])})
	table(rows...)
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
	before, err := processUsage(d.cmd.Process.Pid)
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
	after, err := processUsage(d.cmd.Process.Pid)
	return wall, after.cpu - before.cpu, errors.Join(err, d.stop())
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
