package matrix

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// wide is how many columns a table may have to show times; a larger one shows marks alone, without a space between.
const wide = 8

const (
	good, bad, self  = "✓", "✗", "·"
	green, red, bold = "\x1b[32m", "\x1b[31m", "\x1b[1m"
	plain            = "\x1b[0m"
)

// Write prints the report as tables, then each failure with its reason. Colours are for terminals.
func (r *Report) Write(w io.Writer, colours bool) error {
	p := printer{colours: colours}
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
				p.list(title, probes)
			} else {
				p.grid(title, probes)
			}
			p.line("")
		}
	}
	p.summary(r)
	_, err := io.WriteString(w, p.out.String())
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

type printer struct {
	out     strings.Builder
	colours bool
}

func (p *printer) line(text string) { p.out.WriteString(strings.TrimRight(text, " ") + "\n") }

func (p *printer) paint(colour, text string) string {
	if !p.colours {
		return text
	}
	return colour + text + plain
}

// pad fills text up to width characters.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// title prints a table's title, and what its numbers are.
func (p *printer) title(text string, times bool) {
	if times {
		text += " (round trip in ms: fastest / mean)"
	}
	p.line(p.paint(bold, text))
}

// grid prints a row for each source and a column for each target.
func (p *printer) grid(title string, probes []Probe) {
	var rows, columns []string
	cells := map[[2]string]Probe{}
	label, width := 0, 0
	for _, probe := range probes {
		if !slices.Contains(rows, probe.From) {
			rows = append(rows, probe.From)
		}
		if !slices.Contains(columns, probe.To) {
			columns = append(columns, probe.To)
		}
		cells[[2]string{probe.From, probe.To}] = probe
		label = max(label, len(probe.From))
		width = max(width, len(probe.To), utf8.RuneCountInString(text(probe)))
	}
	slices.SortStableFunc(columns, func(a, b string) int { return slices.Index(rows, a) - slices.Index(rows, b) })
	times := len(columns) <= wide
	p.title(title, times)
	if times {
		head := pad("", label)
		for _, column := range columns {
			head += "  " + pad(column, width)
		}
		p.line("  " + head)
	}
	for _, row := range rows {
		out := pad(row, label) + "  "
		for _, column := range columns {
			probe, ok := cells[[2]string{row, column}]
			switch {
			case !ok && times:
				out += pad(self, width+2)
			case !ok:
				out += self
			case times:
				out += p.mark(probe, pad(text(probe), width)) + "  "
			default:
				out += p.mark(probe, string([]rune(text(probe))[:1]))
			}
		}
		p.line("  " + out)
	}
}

// list prints a line for each probe.
func (p *printer) list(title string, probes []Probe) {
	p.title(title, true)
	from, address := 0, 0
	for _, probe := range probes {
		from, address = max(from, len(probe.From)), max(address, len(probe.Address.String()))
	}
	for _, probe := range probes {
		p.line("  " + pad(probe.From, from) + "  " + pad(probe.Address.String(), address) + "  " + p.mark(probe, text(probe)))
	}
}

func (p *printer) mark(probe Probe, text string) string {
	if probe.OK() {
		return p.paint(green, text)
	}
	return p.paint(red, text)
}

// text is what a cell says.
func text(probe Probe) string {
	if probe.OK() {
		return fmt.Sprintf("%s %.2f / %.2f", good, probe.MinMS, probe.AvgMS)
	}
	return bad
}

func (p *printer) summary(r *Report) {
	for _, probe := range r.Probes {
		if !probe.OK() {
			p.line(fmt.Sprintf("%s %s → %s %v: %s", p.paint(red, bad), probe.From, probe.To, probe.Address, probe.Error))
		}
	}
	switch {
	case r.Total == 0:
		p.line("there is nothing to reach: the lab has no pods")
	case r.Failed == 0:
		p.line(p.paint(green, fmt.Sprintf("%s all %d paths work", good, r.Total)))
	default:
		p.line(p.paint(red, fmt.Sprintf("%s %d of %d paths do not work", bad, r.Failed, r.Total)))
	}
}
