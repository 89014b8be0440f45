package wire_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/wire"
)

// A structure is refused with the version and a remedy if it is of a version that the program does not read,
// or calls a field critical that the program does not know.
func TestCheckRefusesWhatTheProgramCannotUse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		v        int
		critical []string
		want     string // in the message; empty: it may be used
	}{
		{"this version", 2, nil, ""},
		{"an older version", 1, nil, ""},
		{"a critical field that is known", 2, []string{"end", "start"}, ""},
		{"a newer version", 3, nil, "the letter is of version 3, this program reads 1 to 2"},
		{"no version", 0, nil, "version 0"},
		{"a critical field that is unknown", 2, []string{"end", "stop"}, `version 2, needs a newer program: ` +
			`this program does not know the field "stop"`},
		{"a critical field that could confuse a log", 1, []string{"a\nb"}, `"a b"`},
	} {
		err := wire.Check("the letter", tt.v, 2, tt.critical, "start", "end")
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: got %v, want it used", tt.name, err)
			}
			continue
		}
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), tt.want) ||
			!strings.Contains(fault.Remedy(err), "update this program") {
			t.Errorf("%s: got %v (%s), want invalid, with %q and a remedy", tt.name, err, fault.Remedy(err),
				tt.want)
		}
	}
}

func TestAListOfCriticalFieldsIsBounded(t *testing.T) {
	t.Parallel()
	var list wire.Critical
	err := json.Unmarshal([]byte(`["a","b"]`), &list)
	if err != nil || !slices.Equal(list, []string{"a", "b"}) {
		t.Errorf("got %q and %v, want two names", list, err)
	}
	many := "[" + strings.Repeat(`"",`, 1<<20) + `""]`
	if err := json.Unmarshal([]byte(many), &list); err == nil {
		t.Errorf("got a list of %d names, want it refused", len(list))
	}
}

type letter struct {
	Stamp
	Title string          `json:"title"`
	Pages []page          `json:"pages,omitempty"`
	Notes *page           `json:"notes,omitempty"`
	Marks map[string]page `json:"marks,omitempty"`
	Sent  time.Time       `json:"sent,omitzero"`
	Home  string          `json:"-"`
	Plain int
	local int
}

// Stamp is embedded, so its fields are fields of the letter.
type Stamp struct {
	Price int `json:"price"`
}

type page struct {
	Text  string   `json:"text"`
	Lines []string `json:"lines,omitempty"`
}

func TestFieldsNamesWhatAReaderKnows(t *testing.T) {
	t.Parallel()
	want := []string{
		"price", "title", "pages", "pages.text", "pages.lines", "notes", "notes.text", "notes.lines", "marks",
		"sent", "Plain",
	}
	if got := wire.Fields(letter{local: 1}); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFieldsInNamesWhatAWriterUsed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   letter
		want []string
	}{
		"an empty one": {letter{}, nil},
		"fields of any element of a list": {
			letter{Title: "x", Pages: []page{{Text: "a"}, {}, {Lines: []string{"b"}}}},
			[]string{"pages", "pages.lines", "pages.text", "title"},
		},
		"what writes itself has no fields": {letter{Sent: time.Unix(1, 0)}, []string{"sent"}},
		"the keys of a map are no fields":  {letter{Marks: map[string]page{"k": {Text: "a"}}}, []string{"marks"}},
		"behind a pointer":                 {letter{Notes: &page{Text: "a"}}, []string{"notes", "notes.text"}},
	} {
		if got := wire.FieldsIn(tt.in); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
