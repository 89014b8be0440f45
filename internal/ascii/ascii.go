// Package ascii checks the form of names: of which ASCII characters they consist, and how many. A regular
// expression could do so too, but one with a bounded repeat, such as [a-z]{0,62}, takes some 25 kB of memory
// for as long as a program runs, and an agent shares its machine with others.
package ascii

import "fmt"

// Set is a set of ASCII characters. The zero value is empty.
type Set struct{ low, high uint64 } // a bit for each of the characters 0 to 63, and 64 to 127

// Of returns the set that members lists, as a bracket expression of regexp does: single characters, and
// ranges such as a-z. A "-" at the end stands for itself. It panics if there is something other than ASCII in
// it, or a range that runs backwards: members is a constant.
func Of(members string) Set {
	var s Set
	for i := 0; i < len(members); i++ {
		from, to := members[i], members[i]
		if i+2 < len(members) && members[i+1] == '-' {
			to = members[i+2]
			i += 2
		}
		if from > to || to > 127 {
			panic(fmt.Sprintf("ascii: %q has the range %q to %q", members, from, to))
		}
		for c := from; c <= to; c++ {
			s.add(c)
		}
	}
	return s
}

func (s *Set) add(c byte) {
	if c < 64 {
		s.low |= 1 << c
	} else {
		s.high |= 1 << (c - 64)
	}
}

// Has reports whether c is in the set.
func (s Set) Has(c byte) bool {
	if c < 64 {
		return s.low&(1<<c) != 0
	}
	return c < 128 && s.high&(1<<(c-64)) != 0
}

// All reports whether every byte of text is in the set.
func (s Set) All(text string) bool {
	for i := range len(text) {
		if !s.Has(text[i]) {
			return false
		}
	}
	return true
}

// Form is the form of a kind of names.
type Form struct {
	First Set // has the first character
	Inner Set // has all others
	Last  Set // has the last character; if it is the zero value, the last character is one of the others
	Min   int // bytes; 1 if it is 0
	Max   int // bytes
}

// Matches reports whether name has the form. An empty name never has.
func (f Form) Matches(name string) bool {
	if name == "" || len(name) < f.Min || len(name) > f.Max || !f.First.Has(name[0]) {
		return false
	}
	if f.Last != (Set{}) && !f.Last.Has(name[len(name)-1]) {
		return false
	}
	return f.Inner.All(name[1:])
}
