package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
)

// Log configures the log of a program.
type Log struct {
	// Level is debug, info, warn or error. Empty means info.
	Level string `yaml:"level"`
	// Format is text or json, with a record on each line. Empty means text.
	Format string `yaml:"format"`
}

var levels = map[string]slog.Level{
	"":      slog.LevelInfo,
	"debug": slog.LevelDebug,
	"info":  slog.LevelInfo,
	"warn":  slog.LevelWarn,
	"error": slog.LevelError,
}

const jsonFormat = "json"

// Check implements config.Checker.
func (l Log) Check(report func(path, format string, args ...any)) {
	if _, known := levels[l.Level]; !known {
		report("level", "is %q, not debug, info, warn or error", l.Level)
	}
	if l.Format != "" && l.Format != "text" && l.Format != jsonFormat {
		report("format", "is %q, not text or json", l.Format)
	}
}

// Validate returns the faults of Check as one error, for a Log that did not come from a file.
func (l Log) Validate() error {
	var wrong []string
	l.Check(func(path, format string, args ...any) {
		wrong = append(wrong, "the log's "+path+" "+fmt.Sprintf(format, args...))
	})
	if len(wrong) == 0 {
		return nil
	}
	return logFlagsInvalid.New("", fault.Args{"why": strings.Join(wrong, "; ")})
}

// WithDefaults returns l with its empty fields set from other.
func (l Log) WithDefaults(other Log) Log {
	if l.Level == "" {
		l.Level = other.Level
	}
	if l.Format == "" {
		l.Format = other.Format
	}
	return l
}

// Logger makes a logger that writes to w.
func (l Log) Logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: levels[l.Level]}
	if l.Format == jsonFormat {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// Report writes err, with which the program ends, to w: in the text format as fault.Report does, and in the
// json format as a log record, so that every line of the log is JSON.
func (l Log) Report(w io.Writer, program string, err error) {
	if l.Format == jsonFormat {
		l.Logger(w).Error(fault.Message(err), "program", program, "remedy", fault.Remedy(err))
		return
	}
	fault.Report(w, program, err)
}
