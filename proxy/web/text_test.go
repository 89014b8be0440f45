package web

import (
	"bytes"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
)

func TestLanguagesHaveTheSameTexts(t *testing.T) {
	t.Parallel()
	want := slices.Sorted(maps.Keys(english))
	if got := slices.Sorted(maps.Keys(korean)); !slices.Equal(got, want) {
		t.Errorf("got keys %v in Korean, want %v", got, want)
	}
	for key, text := range english {
		if strings.Count(text, "%s") != strings.Count(korean[key], "%s") {
			t.Errorf("%s: the languages take different arguments", key)
		}
	}
}

// Every text that a page uses exists, and every kind of fault has a title and an advice.
func TestPagesUseExistingTexts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("pages/*.html")
	if err != nil || len(files) == 0 {
		t.Fatalf("got pages %v, %v", files, err)
	}
	use := regexp.MustCompile(`\.T "([^"]+)"`)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range use.FindAllStringSubmatch(string(b), -1) {
			if english[m[1]] == "" {
				t.Errorf("%s uses %q, which does not exist", name, m[1])
			}
		}
	}
	for _, k := range []fault.Kind{
		fault.Internal, fault.Invalid, fault.Unauthenticated, fault.Denied, fault.Expired, fault.NotFound,
		fault.Conflict, fault.Unavailable, fault.Exhausted,
	} {
		if english["kind."+string(k)] == "" || english["advice."+string(k)] == "" {
			t.Errorf("a fault of kind %s has no title or no advice", k)
		}
	}
}

// A flood of refusals does not flood the log.
func TestTheRefusalLogIsLimited(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := New(Config{Public: []string{"proxy.example.com"}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 1000 {
		r := httptest.NewRequest(http.MethodGet, "https://proxy.example.com/nothing", nil)
		s.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}
	if lines := strings.Count(log.String(), "\n"); lines < logLinesPerSecond || lines > 500 {
		t.Errorf("got %d lines for 1000 refusals, want few", lines)
	}
}
