package store

import (
	"slices"
	"strings"
)

// Selector is a label selector (metav1.LabelSelector): labels match when they meet all requirements. The zero Selector matches everything. Make
// one with NewSelector, which brings requirements that mean the same into the same form. A Selector is never changed after it was made.
type Selector struct {
	requirements []Requirement
	text         string
}

// Requirement is one condition on labels.
type Requirement struct {
	Key      string
	Operator SelectorOperator
	Values   []string // of In and NotIn; sorted, without duplicates
}

// SelectorOperator is a requirement's operator.
type SelectorOperator string

// The operators.
const (
	SelectorIn           SelectorOperator = "In"
	SelectorNotIn        SelectorOperator = "NotIn" // labels without the key match, too
	SelectorExists       SelectorOperator = "Exists"
	SelectorDoesNotExist SelectorOperator = "DoesNotExist"
)

// NewSelector returns the selector of all the requirements, in any order.
func NewSelector(requirements ...Requirement) Selector {
	own := make([]Requirement, 0, len(requirements))
	for _, r := range requirements {
		r.Values = slices.Compact(slices.Sorted(slices.Values(r.Values)))
		own = append(own, r)
	}
	slices.SortFunc(own, func(a, b Requirement) int { return strings.Compare(a.String(), b.String()) })
	own = slices.CompactFunc(own, func(a, b Requirement) bool { return a.String() == b.String() })
	s := Selector{requirements: own}
	for i, r := range own {
		if i > 0 {
			s.text += ", "
		}
		s.text += r.String()
	}
	return s
}

// Matches reports whether labels meet all requirements.
func (s Selector) Matches(labels map[string]string) bool {
	for _, r := range s.requirements {
		value, there := labels[r.Key]
		var ok bool
		switch r.Operator {
		case SelectorIn:
			ok = there && slices.Contains(r.Values, value)
		case SelectorNotIn:
			ok = !there || !slices.Contains(r.Values, value)
		case SelectorExists:
			ok = there
		case SelectorDoesNotExist:
			ok = !there
		}
		if !ok {
			return false
		}
	}
	return true
}

// Everything reports whether the selector has no requirement.
func (s Selector) Everything() bool { return len(s.requirements) == 0 }

// Requirements returns the requirements, sorted. They are not to be changed.
func (s Selector) Requirements() []Requirement { return s.requirements }

// String returns the selector as kubectl writes it; selectors with equal texts match the same. That of everything is empty.
func (s Selector) String() string { return s.text }

// Equal reports whether both have the same requirements.
func (s Selector) Equal(o Selector) bool { return s.text == o.text }

func (r Requirement) String() string {
	switch r.Operator {
	case SelectorIn:
		if len(r.Values) == 1 {
			return r.Key + "=" + r.Values[0]
		}
		return r.Key + " in " + list(r.Values)
	case SelectorNotIn:
		return r.Key + " notin " + list(r.Values)
	case SelectorDoesNotExist:
		return "!" + r.Key
	case SelectorExists:
		return r.Key
	}
	return r.Key + " " + string(r.Operator) + " " + list(r.Values) // matches nothing
}

func list(values []string) string { return "(" + strings.Join(values, ",") + ")" }
