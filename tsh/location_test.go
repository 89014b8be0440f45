package tsh

import "testing"

// An argument of scp with a colon before any slash is on a node; anything else is on this machine.
func TestParseLocation(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"f":            "local f",
		"./a:b":        "local ./a:b",
		"/x:y":         "local /x:y",
		"web-1:":       "web-1 .",
		"web-1:~":      "web-1 .",
		"web-1:~/x":    "web-1 ./x",
		"web-1:/etc/x": "web-1 /etc/x",
		"me@web-1:x":   "me@web-1 x",
		"WEB-1:x:y":    "web-1 x:y",
	} {
		l, err := parseLocation(in)
		got := "local " + l.path
		if l.node != nil {
			got = l.node.node + " " + l.path
			if l.node.login != "" {
				got = string(l.node.login) + "@" + got
			}
		}
		if err != nil || got != want {
			t.Errorf("%q: got %q (%v), want %q", in, got, err, want)
		}
	}
}
