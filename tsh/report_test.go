package tsh

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
)

func TestEveryErrorEndsInAHint(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		io.EOF,
		faulttest.New(fault.Internal, "", "x", ""),
		fmt.Errorf("wrapped: %w", faulttest.New(fault.Denied, "", "no\x1b", "ask")),
		config.Faults{{File: "f", Line: 1, Msg: "bad"}},
		fmt.Errorf("unknown command \"x\" for \"tsh\"\n\nDid you mean this?\n\tls\n"),
	} {
		f := describeError(err)
		if f.Msg == "" || f.Remedy == "" || strings.Contains(f.Msg+f.Remedy, "\x1b") {
			t.Errorf("%v: got %q, %q", err, f.Msg, f.Remedy)
		}
	}
}

// An error is one line of JSON with the fields of docs/cli.md if the command was to write JSON, wherever the
// flag is; else it is text. An error of a plain kind shows its id.
func TestErrorsAreJSONIfTheOutputIs(t *testing.T) {
	t.Parallel()
	refusal := fault.Error{
		Code: "node-unknown", Kind: fault.Internal, Op: "resolve", Msg: "there is no node x\x1b",
		Remedy: "see: tsh ls", Args: map[string]string{"node": "x"}, ID: "abc",
	}
	const text = "tsh: error: there is no node x (error id abc)\ntsh: hint: see: tsh ls\n"
	const object = `{"error":{"code":"node-unknown","kind":"internal","message":"there is no node x",` +
		`"remedy":"see: tsh ls","args":{"node":"x"},"id":"abc"}}` + "\n"
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"ls"}, text},
		{[]string{"ls", "--format=text"}, text},
		{[]string{"ls", "--format=yaml"}, text},
		{[]string{"ls", "--format=json"}, object},
		{[]string{"ls", "--format", "json"}, object},
		{[]string{"ls", "--bad", "--format", "json"}, object}, // cobra stops at the first bad flag
		{[]string{"ssh", "web-1", "--format=json"}, text},     // the words after the node are the command
	} {
		var stderr strings.Builder
		a := &app{Env: Env{Args: tt.args, Stderr: &stderr}}
		cmd, flags, err := a.root().Find(tt.args)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.ParseFlags(flags)
		a.report(cmd, fmt.Errorf("call: %w", &refusal))
		if stderr.String() != tt.want {
			t.Errorf("%q: got %q, want %q", tt.args, &stderr, tt.want)
		}
	}
}
