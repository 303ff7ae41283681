package main

import (
	"errors"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/connectivity/agent"
	"github.com/twill-cni/twill/ctl/probe"
)

// newAgent is what twillctl runs in the pods that "connectivity" makes in a Kubernetes cluster, see package agent.
func newAgent() *cobra.Command {
	cmd := &cobra.Command{Use: "agent", Short: "what runs in pods of the connectivity test", Hidden: true}
	serve := &cobra.Command{
		Use:    "serve NAME",
		Short:  "say a name to everybody who asks, until it is ended",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			hello, err := agent.Introduce(resolvConf)
			if err != nil {
				return err
			}
			if len(hello.Addresses) == 0 {
				return errors.New("the pod has no address")
			}
			var at []netip.AddrPort
			for _, a := range hello.Addresses {
				at = append(at, netip.AddrPortFrom(a, connectivity.Port), netip.AddrPortFrom(a, connectivity.ClosedPort))
			}
			s, err := probe.Serve(cmd.Context(), probe.Here{}, args[0], at...)
			if err != nil {
				return err
			}
			<-cmd.Context().Done()
			s.Close()
			return nil
		},
	}
	ask := &cobra.Command{
		Use:    "ask",
		Short:  "ask what comes in by standard input, and answer on standard output",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hello, err := agent.Introduce(resolvConf)
			if err != nil {
				return err
			}
			return agent.Answer(cmd.Context(), probe.Here{}, hello, os.Stdin, os.Stdout)
		},
	}
	cmd.AddCommand(serve, ask)
	return cmd
}

const resolvConf = "/etc/resolv.conf"
