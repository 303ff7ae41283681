package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
)

func newLabStatus(to streams) *cobra.Command {
	options := lab.Options{}
	output := ""
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show a cluster's nodes and whether they are ready; --all lists the labs",
		Example: `  twillctl lab status
  twillctl lab status --all`,
		Args: cobra.NoArgs,
	}
	all := cmd.Flags().Bool("all", false, "list the labs on this machine, whole or not")
	addName(cmd, &options)
	addFormat(cmd, &output)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *all {
			return printLabs(to.out, options.StateDir, output)
		}
		l, err := lab.Open(options)
		if err != nil {
			return err
		}
		status := statusOf(cmd.Context(), l)
		return printAs(to.out, output, status, func() error { return printStatus(to.out, status) })
	}
	return cmd
}

// labStatus is a lab as it is printed.
type labStatus struct {
	Name    string       `json:"name"`
	Dir     string       `json:"dir"`
	Etcd    string       `json:"etcd"`
	Routing string       `json:"routing"`
	Subnets []string     `json:"subnets"`          // the router's addresses in each of them
	Router  *tor         `json:"router,omitempty"` // that speaks BGP; nil where it does not
	Nodes   []nodeStatus `json:"nodes"`
}

type tor struct {
	AS      uint32 `json:"as"`
	Running bool   `json:"running"`
	Log     string `json:"log"`
}

// cells are the router's BACKEND, TWILLD and LOG: where it only forwards, there is nothing to say.
func (r *tor) cells() (backend, state, log string) {
	switch {
	case r == nil:
		return "", "", ""
	case r.Running:
		return fmt.Sprintf("bgp AS %d", r.AS), "running", r.Log
	}
	return fmt.Sprintf("bgp AS %d", r.AS), "stopped", r.Log
}

type nodeStatus struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	Subnet    int          `json:"subnet"` // from 1
	Backend   string       `json:"backend"`
	Daemon    string       `json:"daemon"` // "ready", "not ready" or "stopped"
	PID       int          `json:"pid,omitempty"`
	Pods      int          `json:"pods"`
	Log       string       `json:"log"`
}

func statusOf(ctx context.Context, l *lab.Lab) labStatus {
	status := labStatus{Name: l.Name(), Dir: l.Dir(), Etcd: "stopped", Routing: l.Routing().String(), Nodes: []nodeStatus{}}
	for _, s := range l.Subnets() {
		status.Subnets = append(status.Subnets, joinAddrs(s))
	}
	if l.Etcd().Running() {
		status.Etcd = l.Etcd().Endpoints()[0]
	}
	if r := l.Router(); l.Routing().ToR {
		status.Router = &tor{AS: r.AS(), Running: r.Running(), Log: r.LogFile()}
	}
	for _, n := range l.Nodes() {
		item := nodeStatus{Name: n.Name, Addresses: n.Addrs(), Subnet: n.Subnet(), Backend: n.Backend(), Daemon: "stopped",
			PID: n.DaemonPID(), Pods: len(n.Pods()), Log: n.LogFile()}
		if item.PID != 0 {
			item.Daemon = readiness(ctx, n)
		}
		status.Nodes = append(status.Nodes, item)
	}
	return status
}

func readiness(ctx context.Context, n *lab.Node) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := n.Get(ctx, n.HealthURL("/readyz")); err != nil {
		return "not ready"
	}
	return "ready"
}

func printStatus(w io.Writer, status labStatus) error {
	return printTable(w, func(row func(cells ...any)) {
		row("NODE", "ADDRESSES", "SUBNET", "BACKEND", "TWILLD", "PID", "PODS", "LOG")
		row("(etcd)", status.Etcd, "", "", "", "", "", status.Dir+"/etcd/log")
		backend, state, log := status.Router.cells()
		for i, s := range status.Subnets {
			row("(router)", s, i+1, backend, state, "", "", log)
		}
		for _, n := range status.Nodes {
			row(n.Name, joinAddrs(n.Addresses), n.Subnet, n.Backend, n.Daemon, n.PID, n.Pods, n.Log)
		}
	})
}

func printLabs(w io.Writer, stateDir, output string) error {
	labs, err := lab.List(stateDir)
	if err != nil {
		return err
	}
	table := func() error {
		return printTable(w, func(row func(cells ...any)) {
			row("LAB", "NODES", "STATE")
			for _, l := range labs {
				state := "up"
				if !l.Complete {
					state = "unfinished"
				}
				row(l.Name, len(l.Nodes), state)
			}
		})
	}
	return printAs(w, output, labs, table)
}
