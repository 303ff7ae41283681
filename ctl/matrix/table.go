package matrix

import (
	"fmt"
	"io"

	"github.com/twill-cni/twill/ctl/grid"
)

// times is what the numbers of the tables are.
const times = "round trip in ms: fastest / mean"

// Write prints the report as tables, then each failure with its reason. Colours are for terminals.
func (r *Report) Write(w io.Writer, colours bool) error {
	p := &grid.Printer{Colours: colours}
	for _, t := range []struct {
		kind  Kind
		title string
	}{{PodToPod, "pod to pod"}, {NodeToPod, "node to pod"}, {PodToGateway, "pod to its own node's gateway"}} {
		for _, family := range []string{"IPv4", "IPv6"} {
			probes := r.of(t.kind, family == "IPv6")
			if len(probes) == 0 {
				continue
			}
			title := t.title + ", " + family
			if t.kind == PodToGateway {
				list(p, title, probes)
			} else {
				p.Grid(title, times, cells(probes))
			}
			p.Line("")
		}
	}
	summary(p, r)
	_, err := io.WriteString(w, p.String())
	return err
}

func (r *Report) of(kind Kind, v6 bool) []Probe {
	var probes []Probe
	for _, p := range r.Probes {
		if p.Kind == kind && p.Address.Is6() == v6 {
			probes = append(probes, p)
		}
	}
	return probes
}

func cells(probes []Probe) (out []grid.Cell) {
	for _, probe := range probes {
		out = append(out, grid.Cell{Row: probe.From, Column: probe.To, OK: probe.OK(), Text: text(probe)})
	}
	return out
}

// list prints a line for each probe.
func list(p *grid.Printer, title string, probes []Probe) {
	p.Title(title, times)
	from, address := 0, 0
	for _, probe := range probes {
		from, address = max(from, len(probe.From)), max(address, len(probe.Address.String()))
	}
	for _, probe := range probes {
		p.Line("  " + grid.Pad(probe.From, from) + "  " + grid.Pad(probe.Address.String(), address) + "  " + p.Mark(probe.OK(), text(probe)))
	}
}

// text is what a cell says.
func text(probe Probe) string {
	if probe.OK() {
		return fmt.Sprintf("%s %.2f / %.2f", grid.Good, probe.MinMS, probe.AvgMS)
	}
	return grid.Bad
}

func summary(p *grid.Printer, r *Report) {
	for _, probe := range r.Probes {
		if !probe.OK() {
			p.Line(fmt.Sprintf("%s %s → %s %v: %s", p.Mark(false, grid.Bad), probe.From, probe.To, probe.Address, probe.Error))
		}
	}
	switch {
	case r.Total == 0:
		p.Line("there is nothing to reach: the lab has no pods")
	case r.Failed == 0:
		p.Line(p.Mark(true, fmt.Sprintf("%s all %d paths work", grid.Good, r.Total)))
	default:
		p.Line(p.Mark(false, fmt.Sprintf("%s %d of %d paths do not work", grid.Bad, r.Failed, r.Total)))
	}
}
