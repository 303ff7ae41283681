package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// runIdle lets a daemon with 1,000 peers stand for a minute in which nothing happens, and shows what it used. Programs
// that it had run would show as processor time of children.
func runIdle(b bench) error {
	if err := settle(); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	const peers = 1000
	if err := c.join(ctx, 0, peers); err != nil {
		return err
	}
	rows := [][]string{{fmt.Sprintf("idle with %d peers", peers), "share of a core", "children", "memory"}}
	for _, command := range []daemonCommand{b.flanneld(), b.twilld()} {
		o, err := observe()
		if err != nil {
			return err
		}
		d, err := command.start()
		if err != nil {
			return err
		}
		if err := o.wait(peers, limit); err != nil {
			return d.failed(err)
		}
		o.close()
		row, err := idle(d, time.Duration(b.scale(60))*time.Second)
		if err := errors.Join(err, d.stop()); err != nil {
			return err
		}
		rows = append(rows, append([]string{command.name}, row...))
	}
	table(rows...)
	return nil
}

func idle(d *daemon, span time.Duration) ([]string, error) {
	time.Sleep(5 * time.Second) // the start's afterwork is not what is measured
	before, err := processUsage(d.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	time.Sleep(span)
	after, err := processUsage(d.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("%.3f%%", 100*float64(after.cpu-before.cpu)/float64(span)), ms(after.children), mib(after.rss)}, nil
}
