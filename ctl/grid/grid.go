package grid

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// wide is how many columns a table may have to show texts; a larger one shows marks alone, without a space between.
const wide = 8

// Marks of what is as it should be, of what is not, and of what was not asked.
const (
	Good, Bad = "✓", "✗"
	self      = "·"
)

// Colours of terminals.
const (
	Green, Red, Bold = "\x1b[32m", "\x1b[31m", "\x1b[1m"
	plain            = "\x1b[0m"
)

// Cell is what is known of one source and one target.
type Cell struct {
	Row, Column string
	OK          bool
	Text        string // begins with a mark
}

// Printer collects lines.
type Printer struct {
	Colours bool // they are for terminals

	out strings.Builder
}

// String returns all lines.
func (p *Printer) String() string { return p.out.String() }

// Line adds a line.
func (p *Printer) Line(text string) { p.out.WriteString(strings.TrimRight(text, " ") + "\n") }

// Paint colours a text.
func (p *Printer) Paint(colour, text string) string {
	if !p.Colours {
		return text
	}
	return colour + text + plain
}

// Mark colours a text by whether it tells of something good.
func (p *Printer) Mark(ok bool, text string) string {
	if ok {
		return p.Paint(Green, text)
	}
	return p.Paint(Red, text)
}

// Pad fills text up to width characters.
func Pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// Title adds a title, with a note on what the cells' texts say.
func (p *Printer) Title(text, note string) {
	if note != "" {
		text += " (" + note + ")"
	}
	p.Line(p.Paint(Bold, text))
}

// Grid adds a title and a row for each source, with a column for each target. The note is printed where the cells' texts are.
func (p *Printer) Grid(title, note string, cells []Cell) {
	var rows, columns []string
	at := map[[2]string]Cell{}
	label, width := 0, 0
	for _, c := range cells {
		if !slices.Contains(rows, c.Row) {
			rows = append(rows, c.Row)
		}
		if !slices.Contains(columns, c.Column) {
			columns = append(columns, c.Column)
		}
		at[[2]string{c.Row, c.Column}] = c
		label = max(label, len(c.Row))
		width = max(width, len(c.Column), utf8.RuneCountInString(c.Text))
	}
	slices.SortStableFunc(columns, func(a, b string) int { return slices.Index(rows, a) - slices.Index(rows, b) })
	texts := len(columns) <= wide
	if !texts {
		note = ""
	}
	p.Title(title, note)
	if texts {
		head := Pad("", label)
		for _, column := range columns {
			head += "  " + Pad(column, width)
		}
		p.Line("  " + head)
	}
	for _, row := range rows {
		out := Pad(row, label) + "  "
		for _, column := range columns {
			c, ok := at[[2]string{row, column}]
			switch {
			case !ok && texts:
				out += Pad(self, width+2)
			case !ok:
				out += self
			case texts:
				out += p.Mark(c.OK, Pad(c.Text, width)) + "  "
			default:
				out += p.Mark(c.OK, string([]rune(c.Text)[:1]))
			}
		}
		p.Line("  " + out)
	}
}
