package egress

import (
	"bufio"
	"io"
	"strings"
	"testing"
)

// What follows the header belongs to the tunnel, whatever the header was.
func FuzzReadReply(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 407 x\r\nProxy-Authenticate: Basic\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 99\n\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 999\r\n a\r\n\r\n", "\r\n\r\n", "HTTP/2 200\r\n: \r\n\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, head string) {
		const tunnel = "SSH-2.0-x\r\n"
		r := bufio.NewReaderSize(strings.NewReader(head+tunnel), maxReplyBytes)
		resp, err := readReply(r)
		if err != nil {
			return
		}
		if resp.StatusCode < 0 || resp.StatusCode > 999 {
			t.Errorf("got status %d", resp.StatusCode)
		}
		rest, _ := io.ReadAll(r)
		if !strings.HasSuffix(string(rest), tunnel) && !strings.HasSuffix(tunnel, string(rest)) {
			t.Errorf("got %q after the header, want the tunnel's bytes", rest)
		}
	})
}
