package main

import "github.com/spf13/cobra"

func newRoot(to streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "twillctl",
		Short: "operate and try out Twill",
		Long: `twillctl is the operator's tool of Twill, a CNI plugin suite.

On a Linux machine, as root, "twillctl lab" shows pods on three nodes reach each
other, with nothing else installed.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.AddCommand(newVersion(to), newLab(to), newStatus(to), newNode(to), newCheck(to), newBGP(to), newService(to), newPolicy(to), newTrace(to), newConnectivity(to), newIPAM(to),
		newSysdump(to), newApply(to), newGet(to), newDelete(to), newRelay(), newAgent())
	return root
}
