package ascii_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/ascii"
)

// forms are some forms with regular expressions that say the same.
var forms = []struct {
	form ascii.Form
	re   *regexp.Regexp
}{
	{
		ascii.Form{First: ascii.Of("a-z"), Inner: ascii.Of("a-z0-9-"), Max: 32},
		regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`),
	},
	{
		ascii.Form{First: ascii.Of("0-9a-f"), Inner: ascii.Of("0-9a-f"), Min: 4, Max: 4},
		regexp.MustCompile(`^[0-9a-f]{4}$`),
	},
	{
		ascii.Form{
			First: ascii.Of("A-Za-z"), Inner: ascii.Of("A-Za-z._-"), Last: ascii.Of("A-Za-z"), Max: 9,
		},
		regexp.MustCompile(`^[A-Za-z]([A-Za-z._-]{0,7}[A-Za-z])?$`),
	},
}

// TestFormsMatchAsRegularExpressionsDo compares every character at every place, and every length.
func TestFormsMatchAsRegularExpressionsDo(t *testing.T) {
	names := []string{"", "a", "a-", "-", "a\n", "ab\n", "\u00e9", "a\u00e9a", "abcd\n"}
	for c := range 256 {
		char := string([]byte{byte(c)})
		names = append(names, char, char+"abc", "a"+char+"bc", "abc"+char)
	}
	for n := range 40 {
		names = append(names, strings.Repeat("a", n))
	}
	for _, f := range forms {
		for _, name := range names {
			if got, want := f.form.Matches(name), f.re.MatchString(name); got != want {
				t.Errorf("%v matches %q: %v, want %v", f.re, name, got, want)
			}
		}
	}
}

func TestSetsListSingleCharactersAndRanges(t *testing.T) {
	set := ascii.Of("a-c_.-")
	for c := range 256 {
		want := strings.IndexByte("abc_.-", byte(c)) >= 0
		if got := set.Has(byte(c)); got != want {
			t.Errorf("%q is in the set: %v, want %v", byte(c), got, want)
		}
	}
	if !set.All("") || !set.All("a-b") || set.All("a b") {
		t.Error("All does not ask for each byte")
	}
}

func TestMalformedSetsPanic(t *testing.T) {
	for _, members := range []string{"z-a", "\u00e9", "a-\u00e9"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is taken for a set", members)
				}
			}()
			ascii.Of(members)
		}()
	}
}

func FuzzForms(f *testing.F) {
	f.Add("web-1")
	f.Fuzz(func(t *testing.T, name string) {
		for _, form := range forms {
			if got, want := form.form.Matches(name), form.re.MatchString(name); got != want {
				t.Errorf("%v matches %q: %v, want %v", form.re, name, got, want)
			}
		}
	})
}
