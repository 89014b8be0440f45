package limitedlog_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/limitedlog"
)

// Lines beyond the rate are not written, and the next line that is written says how many there were.
func TestSuppressedLinesAreCounted(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	logger := limitedlog.New(
		slog.New(slog.NewTextHandler(&out, nil)),
		time.Second,
		2,
		func() time.Time { return now },
	)
	for i, want := range []bool{true, true, false, false} {
		if got := logger.Log(slog.LevelInfo, "refused", "try", i); got != want {
			t.Errorf("line %d: written %v, want %v", i, got, want)
		}
	}
	now = now.Add(time.Second)
	if !logger.Log(slog.LevelWarn, "refused", "try", 4) {
		t.Error("a second later: suppressed, want it written")
	}
	now = now.Add(time.Second)
	logger.Log(slog.LevelInfo, "refused", "try", 5)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 || logger.Suppressed() != 2 {
		t.Fatalf(
			"got %d lines and %d suppressed, want 4 and 2:\n%s",
			len(lines), logger.Suppressed(), out.String(),
		)
	}
	if !strings.HasSuffix(lines[2], "level=WARN msg=refused try=4 suppressed_before=2") {
		t.Errorf("got %q, want the level and how many lines were suppressed", lines[2])
	}
	if strings.Contains(lines[1]+lines[3], limitedlog.SuppressedKey) {
		t.Errorf("a line tells of suppressed ones where there were none:\n%s", out.String())
	}
}
