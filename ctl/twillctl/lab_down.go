package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
)

func newLabDown(to streams) *cobra.Command {
	options := lab.Options{}
	all := false
	cmd := &cobra.Command{
		Use:   "down",
		Short: "remove a cluster, or what is left of one",
		Long: `down ends every process that lives in the lab's namespaces and removes the
namespaces and files. It needs nothing but what is on disk, so it also removes what
a killed "lab up" has left. Removing a lab that is not there is no error.`,
		Example: `  twillctl lab down
  twillctl lab down --name big
  twillctl lab down --all`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := []string{options.Name}
			if all {
				labs, err := lab.List(options.StateDir)
				if err != nil {
					return err
				}
				names = nil
				for _, l := range labs {
					names = append(names, l.Name)
				}
			}
			for _, name := range names {
				began := time.Now()
				options.Name = name
				found, err := lab.Destroy(cmd.Context(), options)
				if err != nil {
					return err
				}
				if found {
					fmt.Fprintf(to.err, "removed lab %s in %s\n", name, seconds(began))
				} else {
					fmt.Fprintf(to.err, "there is no lab %s\n", name)
				}
			}
			return nil
		},
	}
	addName(cmd, &options)
	cmd.Flags().BoolVar(&all, "all", false, "remove all labs")
	return cmd
}
