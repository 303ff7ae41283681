package balance

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Write prints the report as a table: a line for each client, a column for each pod.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Service %s: connections of each client, by the pod that answered\n", r.Service)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "from\tto\t%s\t\n", strings.Join(r.Pods, "\t"))
	for _, row := range r.Rows {
		cells := make([]string, len(r.Pods))
		for i, pod := range r.Pods {
			cells[i] = "-"
			if n := row.Answers[pod]; n > 0 {
				cells[i] = strconv.Itoa(n)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t\n", row.From, row.To, strings.Join(cells, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if row.Error != "" {
			fmt.Fprintf(&b, "%s to %s: %s\n", row.From, row.To, row.Error)
		}
	}
	verdict := "every pod answered every client"
	if !r.OK() {
		verdict = "not every pod answered every client"
	}
	fmt.Fprintf(&b, "%s\n", verdict)
	_, err := io.WriteString(w, b.String())
	return err
}
