package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
)

// Fault is one thing that is wrong with a file. Line counts from 1; 0 stands for the file as a whole.
type Fault struct {
	File string
	Line int
	Msg  string
}

func (f Fault) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Msg
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Msg)
}

// Faults is everything that is wrong with one or more files, by file and line. Package fault treats it as an
// Invalid error with a remedy.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, 0, len(fs))
	for _, f := range fs {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// As makes errors.As treat the faults as one *fault.Error of kind Invalid. Package fault finds errors that
// way, so fault.KindOf, Remedy and Public work on a Faults.
func (fs Faults) As(into any) bool {
	e, ok := into.(**fault.Error)
	if !ok || len(fs) == 0 {
		return false
	}
	*e = &fault.Error{Kind: fault.Invalid, Msg: fs.Error(), Remedy: fs.remedy()}
	return true
}

func (fs Faults) remedy() string {
	var files []string
	for _, f := range fs {
		if !slices.Contains(files, f.File) {
			files = append(files, f.File)
		}
	}
	if len(fs) == 1 {
		return "correct " + files[0] + " where the message says, then try again"
	}
	return "correct " + strings.Join(files, " and ") + " at the lines named, then try again"
}

// Join combines errors, of which any may be nil. It merges all Faults among them into one Faults, so that a
// caller reports them as one list, and joins that with the other errors as errors.Join does. It returns nil
// if all are nil, and a single remaining error as it is.
func Join(errs ...error) error {
	var all Faults
	var others []error
	for _, err := range errs {
		var fs Faults
		switch {
		case err == nil:
		case errors.As(err, &fs):
			all = append(all, fs...)
		default:
			others = append(others, err)
		}
	}
	if len(all) > 0 {
		others = append(others, all)
	}
	if len(others) == 1 {
		return others[0]
	}
	return errors.Join(others...)
}

// sortByLine sorts faults by line, and keeps the order of files.
func sortByLine(fs Faults) {
	slices.SortStableFunc(fs, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
}
