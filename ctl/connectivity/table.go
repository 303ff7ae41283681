package connectivity

import (
	"fmt"
	"io"

	"github.com/twill-cni/twill/ctl/grid"
)

// mostShown is how many failures a table lists.
const mostShown = 20

// Write prints who reaches whom, how many cases of each kind are as they are to be, and each failure with what explains it. Colours are for terminals.
func (r *Report) Write(w io.Writer, colours bool) error {
	p := &grid.Printer{Colours: colours}
	if cells := pairs(r.of(PodToPod)); cells != nil {
		p.Grid("pod to pod", "TCP and UDP, in each family", cells)
		p.Line("")
	}
	r.counts(p)
	r.failures(p)
	switch {
	case r.Total == 0:
		p.Line("there is nothing to test: no pods")
	case r.Failed == 0:
		p.Line(p.Mark(true, fmt.Sprintf("%s all %d cases are as they are to be (%.1f s)", grid.Good, r.Total, r.Seconds)))
	default:
		p.Line(p.Mark(false, fmt.Sprintf("%s %d of %d cases failed (%.1f s)", grid.Bad, r.Failed, r.Total, r.Seconds)))
	}
	_, err := io.WriteString(w, p.String())
	return err
}

// pairs makes one cell of all cases between two ends.
func pairs(results []Result) []grid.Cell {
	var cells []grid.Cell
	at := map[[2]string]int{}
	for _, one := range results {
		key := [2]string{one.Case.From, one.Case.To}
		i, known := at[key]
		if !known {
			i, at[key] = len(cells), len(cells)
			cells = append(cells, grid.Cell{Row: key[0], Column: key[1], OK: true, Text: grid.Good})
		}
		if !one.OK {
			cells[i].OK, cells[i].Text = false, grid.Bad
		}
	}
	return cells
}

// counts prints a line for each kind.
func (r *Report) counts(p *grid.Printer) {
	const title, column = 28, 10
	p.Line(p.Paint(grid.Bold, grid.Pad("", title)+grid.Pad("IPv4", column)+"IPv6"))
	for _, k := range kinds {
		results := r.of(k.kind)
		if results == nil {
			continue
		}
		line := grid.Pad("  "+k.title, title)
		for _, family := range []string{"IPv4", "IPv6"} {
			good, all := 0, 0
			for _, one := range results {
				if one.Case.Family() == family {
					all++
					if one.OK {
						good++
					}
				}
			}
			text := grid.Pad("-", column)
			if all > 0 {
				text = p.Mark(good == all, grid.Pad(fmt.Sprintf("%d/%d", good, all), column))
			}
			line += text
		}
		p.Line(line)
	}
	for _, n := range r.NotRun {
		p.Line(fmt.Sprintf("  %s: not run: %s", n.Part, n.Why))
	}
	p.Line("")
}

func (r *Report) failures(p *grid.Printer) {
	shown := 0
	for _, one := range r.Results {
		if one.OK {
			continue
		}
		if shown++; shown > mostShown {
			continue
		}
		c := one.Case
		p.Line(fmt.Sprintf("%s %s: %s → %s, %s: %s", p.Mark(false, grid.Bad), c.Kind.title(), c.From, c.To, c.Question, one.Detail))
		if one.Why != "" {
			p.Line("    " + one.Why)
		}
		if one.Command != "" {
			p.Line("    " + one.Command)
		}
	}
	if more := shown - mostShown; more > 0 {
		p.Line(fmt.Sprintf("and %d more; -o json lists all", more))
	}
}
