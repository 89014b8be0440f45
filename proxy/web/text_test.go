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

func TestLanguagesHaveTheSamePhrases(t *testing.T) {
	phrase := func(key string) bool { return !strings.Contains(key, " ") } // the rest are sentences of faults
	want := slices.Sorted(maps.Keys(english))
	got := slices.Sorted(maps.Keys(korean))
	got = slices.DeleteFunc(got, func(key string) bool { return !phrase(key) })
	if !slices.Equal(got, want) {
		t.Errorf("got keys %v in Korean, want %v", got, want)
	}
	for key, phrase := range english {
		if strings.Count(phrase, "%s") != strings.Count(korean[key], "%s") {
			t.Errorf("%s: the languages take different arguments", key)
		}
	}
}

// Every phrase that a page asks for exists, and every kind of fault has its words.
func TestPagesUseExistingPhrases(t *testing.T) {
	files, err := filepath.Glob("pages/*.html")
	if err != nil || len(files) == 0 {
		t.Fatalf("got pages %v, %v", files, err)
	}
	ask := regexp.MustCompile(`\.T "([^"]+)"`)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ask.FindAllStringSubmatch(string(b), -1) {
			if english[m[1]] == "" {
				t.Errorf("%s asks for %q, which nobody wrote", name, m[1])
			}
		}
	}
	for _, k := range []fault.Kind{fault.Internal, fault.Invalid, fault.Unauthenticated, fault.Denied, fault.Expired, fault.NotFound, fault.Conflict, fault.Unavailable, fault.Exhausted} {
		if english["kind."+string(k)] == "" || english["advice."+string(k)] == "" {
			t.Errorf("a fault of kind %s has no words", k)
		}
	}
}

func FuzzOpenScreen(f *testing.F) {
	s := newSealer()
	good, err := s.seal(screen{Name: "alice"}, "attempt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, "attempt")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, text, attempt string) {
		if v, err := s.open(text, attempt); err == nil && (text != good || attempt != "attempt") {
			t.Errorf("got %+v from a text that nobody sealed", v)
		}
	})
}

// A flood of refusals does not become a flood of log lines.
func TestTheRefusalLogIsLimited(t *testing.T) {
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
