package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/sysdump"
)

// dumpPatience is for how long each part of an archive may take.
const dumpPatience = 30 * time.Second

func newSysdump(to streams) *cobra.Command {
	var from viewpoints
	cmd := &cobra.Command{
		Use:   "sysdump [FILE]",
		Short: "pack all that helps to find a fault into one archive, without secrets",
		Long: `sysdump writes one .tar.gz with, for each node that is asked: status, addresses, nodes,
Services, policies, BGP sessions and routes, the daemon's metrics, log and effective
configuration, network configurations, what the kernel holds (links, addresses, routes,
neighbours, forwarding entries, Twill's nftables, sysctls), and what "twillctl check" says.
index.json in it names each file, when and by what it was taken, and what could not be
taken; a part that fails does not fail the archive.

Passwords, tokens and keys are not in it: what could hold one is taken apart and written
anew without. It does hold names and addresses of nodes, pods and Services.

FILE is twill-sysdump-TIME.tar.gz unless it is given, and - is standard output. It is of
mode 0600, and there when it is whole. It needs root, since the daemon's socket is root's,
or with --all-nodes a kubeconfig that may list and exec into the daemon's pods, where "check"
is run then. On this machine and in a lab a node whose twilld is dead is looked at, too.`,
		Example: `  twillctl sysdump
  twillctl sysdump /tmp/demo.tar.gz --lab demo
  twillctl sysdump --all-nodes - | tar -tz`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			nodes, err := from.dumped(cmd.Context())
			if err != nil {
				return err
			}
			file := "twill-sysdump-" + time.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
			if len(args) == 1 {
				file = args[0]
			}
			m, err := writeDump(cmd.Context(), to.out, file, nodes)
			if err != nil {
				return fmt.Errorf("write %s: %w", file, err)
			}
			reportDump(to.err, file, m, len(nodes))
			return nil
		},
	}
	from.addAll(cmd)
	return cmd
}

// writeDump takes all parts into a file, or with "-" to out.
func writeDump(ctx context.Context, out io.Writer, file string, nodes []dumpedNode) (m *sysdump.Manifest, err error) {
	options := sysdump.Options{Program: fmt.Sprintf("twillctl %s %s", version, runtime.Version()), AtOnce: 2 * runtime.NumCPU(), Patience: dumpPatience}
	fill := func(w io.Writer) (err error) {
		m, err = sysdump.Write(ctx, w, dumpParts(ctx, nodes), options)
		return err
	}
	if file == "-" {
		return m, fill(out)
	}
	err = sysdump.WriteFile(file, fill)
	return m, err
}

// reportDump says what is in the archive, and what is not.
func reportDump(w io.Writer, file string, m *sysdump.Manifest, nodes int) {
	failed := m.Failed()
	size := ""
	if info, err := os.Stat(file); err == nil {
		size = fmt.Sprintf(", %d KiB", (info.Size()+1023)>>10)
	}
	fmt.Fprintf(w, "%s: %d files of %d nodes%s\n", file, len(m.Files)-len(failed), nodes, size)
	for _, e := range failed {
		fmt.Fprintf(w, "not taken: %s: %s\n", e.Name, e.Error)
	}
}
