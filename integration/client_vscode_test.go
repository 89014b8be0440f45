//go:build integration

package integration

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// bootstrap is the script that the editor sends to a shell. Unless a server runs already, it starts one
// that outlives the connection. It prints where the server listens.
const bootstrap = `
dir=$HOME/.editor-server; mkdir -p $dir
if ! kill -0 $(cat $dir/pid 2>/dev/null) 2>/dev/null; then
  cat > $dir/server.py <<'END'
import os, socketserver, threading
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class TCP(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size = True, 128
class Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads, request_queue_size = True, 128
dir = os.path.dirname(os.path.abspath(__file__))
unix = Unix(dir + "/socket", Echo)
threading.Thread(target=unix.serve_forever, daemon=True).start()
tcp = TCP(("127.0.0.1", 0), Echo)
with open(dir + "/port.new", "w") as f:
    f.write(str(tcp.server_address[1]))
os.rename(dir + "/port.new", dir + "/port")
tcp.serve_forever()
END
  rm -f $dir/socket $dir/port
  nohup python3 $dir/server.py >$dir/log 2>&1 </dev/null &
  echo $! > $dir/pid
  until [ -s $dir/port ]; do sleep 0.05; done
fi
echo "pid==$(cat $dir/pid)=="
echo "listeningOn==$(cat $dir/port)=="
`

// vscodeStory uses OpenSSH as VS Code's extension Remote - SSH does: one long command without a terminal,
// whose script comes on standard input, and many short connections through forwards.
func vscodeStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	first := startEditor(t, o)
	e.Supports(
		t,
		"ssh -T -D PORT HOST bash: a script on standard input starts a server that keeps running",
		func(t *testing.T) {
			exchange(t, bySOCKS(first.socks, "127.0.0.1:"+first.port), 64<<10)
		},
		harness.Certificate,
		harness.Exec,
		harness.Dynamic,
		harness.ByCommand,
	)
	e.Supports(
		t,
		"100 connections at once through -D",
		func(t *testing.T) {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() { exchange(t, bySOCKS(first.socks, "127.0.0.1:"+first.port), 64<<10) })
			}
			all.Wait()
		},
		harness.Shared,
	)
	e.Supports(t, "-L to the server's Unix socket", func(t *testing.T) {
		local := harness.FreeAddr(t, "127.0.0.1")
		forward := local + ":" + o.home(".editor-server/socket")
		args := o.options("-T", "-N", "-o", "ExitOnForwardFailure=yes", "-L", forward, o.target())
		startUntilEnd(t, o.start("ssh", args...))
		checkClientEcho(t, dialer("tcp", local))
	}, harness.Local, harness.Sockets)
	e.Supports(
		t,
		"after a lost connection the server still runs, and the editor uses it again",
		func(t *testing.T) {
			first.stop()
			second := startEditor(t, o)
			if second.pid != first.pid || second.port != first.port {
				const format = "got server %s on port %s, want still %s on %s"
				t.Errorf(format, second.pid, second.port, first.pid, first.port)
			}
			exchange(t, bySOCKS(second.socks, "127.0.0.1:"+second.port), 64<<10)
		},
	)
}

// editor is one connection of the editor.
type editor struct {
	pid, port string // of the server on the node
	socks     string // address of -D
	stop      func()
}

// startEditor connects and runs the bootstrap script.
func startEditor(t *testing.T, o *clientFixture) *editor {
	t.Helper()
	ed := &editor{socks: harness.FreeAddr(t, "127.0.0.1")}
	_, port, err := net.SplitHostPort(ed.socks)
	if err != nil {
		t.Fatal(err)
	}
	cmd := o.start("ssh", o.options("-T", "-D", port, o.target(), "bash")...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := startUntilEnd(t, cmd)
	if _, err := io.WriteString(stdin, bootstrap); err != nil {
		t.Fatal(err)
	}
	word := func(prefix string) string { return strings.TrimSuffix(p.Line(prefix), "==") }
	ed.pid, ed.port = word("pid=="), word("listeningOn==")
	ed.stop = p.Kill // as when the laptop is closed
	return ed
}

// exchange sends size bytes as 16 lines, and waits for the echo of each before it sends the next.
func exchange(t *testing.T, dial func() (net.Conn, error), size int) {
	conn, err := dial()
	if err != nil {
		t.Errorf("dial: %v", err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(harness.Timeout))
	line := strings.Repeat("x", size/16-1) + "\n"
	back := bufio.NewReaderSize(conn, size)
	for i := range 16 {
		if _, err := io.WriteString(conn, line); err != nil {
			t.Errorf("line %d: %v", i, err)
			return
		}
		if got, err := back.ReadString('\n'); got != line {
			t.Errorf("line %d: got %d bytes back, %v, want %d", i, len(got), err, len(line))
			return
		}
	}
}
