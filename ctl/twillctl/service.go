package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

func newService(to streams) *cobra.Command {
	var flags daemonFlags
	var namespace string
	cmd := &cobra.Command{
		Use:     "service [[NAMESPACE/]NAME]",
		Aliases: []string{"services", "svc"},
		Short:   "show what a node's kernel holds of Services, and what is wrong with it",
		Long: `service asks the twilld of this node, or of a lab's node, for the Services that it
serves. Endpoints, slots, remembered clients and hits are read from the kernel's
nftables at that moment, and compared with what twilld means to be there. It changes
nothing. It needs root: the daemon's socket is root's.

HITS are the first packets of connections that this node has sent on, or refused,
since the frontend has had its plan. It begins at 0 when the number of endpoints or
another property of the Service changes.

The exit code is 1 when the kernel differs from what should be there. twilld repairs
that within a second, so a difference that stays means that it cannot; its log says why.`,
		Example: `  twillctl service                              all Services, one line for each address
  twillctl service web                          one of namespace default: slots, clients
  twillctl service shop/web --lab-node node1    as node1 of a lab has it
  twillctl service -n shop -o wide              those of a namespace, with their plans
  twillctl service -o json | jq .differences`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeFirst(flags.serviceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := serviceName(namespace, args)
			if err != nil {
				return err
			}
			client, err := flags.client()
			if err != nil {
				return err
			}
			report, err := client.Services(cmd.Context(), name)
			if err != nil {
				return err
			}
			if len(args) == 0 && namespace != "" {
				onlyNamespace(&report, namespace)
			}
			if err := printReport(to.out, &report, flags.output, len(args) > 0); err != nil {
				return err
			}
			if len(report.Differences) > 0 {
				return errFailed
			}
			return nil
		},
	}
	flags.addTarget(cmd)
	addFormat(cmd, &flags.output, "wide")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace (default: all, or \"default\" for a NAME)")
	return cmd
}

// serviceName returns the Service that is asked for, the zero value for all.
func serviceName(namespace string, args []string) (store.ObjectName, error) {
	if len(args) == 0 {
		return store.ObjectName{}, nil
	}
	of, name, qualified := strings.Cut(args[0], "/")
	switch {
	case !qualified && namespace == "":
		of, name = manifest.DefaultNamespace, args[0]
	case !qualified:
		of, name = namespace, args[0]
	case namespace != "" && namespace != of:
		return store.ObjectName{}, fmt.Errorf("name %s is not in namespace %s", args[0], namespace)
	}
	if of == "" || name == "" || strings.Contains(name, "/") {
		return store.ObjectName{}, fmt.Errorf("name %q: want NAME or NAMESPACE/NAME", args[0])
	}
	return store.ObjectName{Namespace: of, Name: name}, nil
}

// onlyNamespace leaves out other namespaces' Services. What is wrong with the tables stays: it concerns all.
func onlyNamespace(r *dnat.Report, namespace string) {
	r.Services = slices.DeleteFunc(r.Services, func(s dnat.ServiceState) bool { return s.Namespace != namespace })
	r.Differences = slices.DeleteFunc(r.Differences, func(d dnat.Difference) bool {
		return d.Service != "" && !strings.HasPrefix(d.Service, namespace+"/")
	})
}

func printReport(w io.Writer, r *dnat.Report, format string, one bool) error {
	return printAs(w, format, r, func() error {
		if one {
			return printService(w, r, format == "wide")
		}
		return errors.Join(printServices(w, r, format == "wide"), printDifferences(w, r.Differences))
	})
}

// printServices prints one line for each frontend.
func printServices(w io.Writer, r *dnat.Report, wide bool) error {
	wrong := map[string]int{}
	for _, d := range r.Differences {
		wrong[d.Service]++
	}
	return printTable(w, func(row func(cells ...any)) {
		header := []any{"NAME", "ADDRESS", "KIND", "SCHEDULER", "ENDPOINTS", "HITS", "DIFFERENCES"}
		if wide {
			header = append(header, "PORT NAME", "MASQUERADE", "AFFINITY", "PLAN")
		}
		row(header...)
		for _, s := range r.Services {
			name := s.Namespace + "/" + s.Name
			for _, f := range s.Frontends {
				cells := []any{name, frontendText(f), f.Kind, f.Scheduler, f.Endpoints, f.Hits, number(wrong[name])}
				if wide {
					cells = append(cells, dash(f.PortName), f.Masquerade, affinityText(f), planText(f))
				}
				row(cells...)
			}
		}
	})
}

// number prints 0 as nothing, so that what is not 0 stands out.
func number(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// mostDifferences is how many differences a table lists: a table that was emptied has thousands.
const mostDifferences = 20

func printDifferences(w io.Writer, all []dnat.Difference) error {
	if len(all) == 0 {
		return nil
	}
	shown := all[:min(len(all), mostDifferences)]
	fmt.Fprintln(w) // an error shows with the table
	err := printTable(w, func(row func(cells ...any)) {
		row("SERVICE", "TABLE", "DIFFERENCE")
		for _, d := range shown {
			row(dash(d.Service), d.Family+" "+dnat.TableName, d)
		}
	})
	if more := len(all) - len(shown); more > 0 && err == nil {
		_, err = fmt.Fprintf(w, "and %d more; -o json lists all\n", more)
	}
	return err
}
