package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// MedianTimes calls each of the functions in turn, rounds times, and returns the median time of each. So
// what slows the machine for a while slows all of them.
func MedianTimes(rounds int, functions ...func()) []time.Duration {
	times := make([][]time.Duration, len(functions))
	for round := range rounds {
		for i := range functions {
			i = (i + round) % len(functions) // so that none always runs after the same other one
			start := time.Now()
			functions[i]()
			times[i] = append(times[i], time.Since(start))
		}
	}
	out := make([]time.Duration, len(functions))
	for i, t := range times {
		slices.Sort(t)
		out[i] = t[len(t)/2]
	}
	return out
}

// Measurement is one line of docs/benchmarks.md. The ratio of Ours to Peer is what counts; each alone
// depends on the speed of the machine.
type Measurement struct {
	What       string  // for example "tsh ssh node true, loopback"
	Unit       string  // of Ours and Peer: "ms", "MB/s", "s/GB"
	Ours, Peer float64 // Peer 0 means that nothing was measured beside Ours
	Bound      float64 // the target for Ours/Peer, or for Ours without Peer; 0 means there is none
	AtLeast    bool    // Bound is a minimum; otherwise a maximum
}

// Ratio is the value to which Bound applies.
func (f Measurement) Ratio() float64 {
	if f.Peer == 0 {
		return f.Ours
	}
	return f.Ours / f.Peer
}

// Holds reports whether the target is met.
func (f Measurement) Holds() bool {
	if f.AtLeast {
		return f.Ratio() >= f.Bound
	}
	return f.Ratio() <= f.Bound
}

// measurements are the measurements of this run.
var measurements struct {
	mu   sync.Mutex // guards list
	list []Measurement
}

// Report adds measurements for the page and logs them.
func Report(b *testing.B, list ...Measurement) {
	b.Helper()
	measurements.mu.Lock()
	defer measurements.mu.Unlock()
	for _, f := range list {
		// A benchmark may have run before, with fewer iterations.
		sameWhat := func(old Measurement) bool { return old.What == f.What }
		measurements.list = append(slices.DeleteFunc(measurements.list, sameWhat), f)
		b.Log(f.line())
	}
}

// line is the row of the table: what, ratio, Threshold, peer, target, whether it holds.
func (f Measurement) line() string {
	verdict := "holds"
	if !f.Holds() {
		verdict = "NOT YET"
	}
	sign := "≤"
	if f.AtLeast {
		sign = "≥"
	}
	ours, peer := formatNumber(f.Ours)+" "+f.Unit, formatNumber(f.Peer)+" "+f.Unit
	switch {
	case f.Bound == 0:
		return fmt.Sprintf("| %s | | %s | | | |", f.What, ours)
	case f.Peer == 0:
		return fmt.Sprintf("| %s | | %s | | %s %s | %s |", f.What, ours, sign, formatNumber(f.Bound), verdict)
	}
	const format = "| %s | %.2f | %s | %s | %s %.2f | %s |"
	return fmt.Sprintf(format, f.What, f.Ratio(), ours, peer, sign, f.Bound, verdict)
}

// formatNumber prints a number with three significant digits, or all digits before the point.
func formatNumber(v float64) string {
	digits := 0
	for limit := 100.0; digits < 3 && v < limit; limit /= 10 {
		digits++
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// WriteMeasurements replaces the table of the page, between its two marks, by the measurements of this run.
// Without measurements it changes nothing.
func WriteMeasurements(path string) error {
	const begin, end = "<!-- measured -->\n", "<!-- /measured -->"
	measurements.mu.Lock()
	defer measurements.mu.Unlock()
	if len(measurements.list) == 0 {
		return nil
	}
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no marks for the table of measurements", filepath.Base(path))
	}
	var table strings.Builder
	table.WriteString("| what | ratio | Threshold | peer | target | |\n|---|---|---|---|---|---|\n")
	for _, f := range measurements.list {
		table.WriteString(f.line() + "\n")
	}
	return os.WriteFile(path, []byte(before+begin+table.String()+end+after), 0o644)
}

// clockTicks is USER_HZ, the unit of processor time in /proc, in ticks a second.
const clockTicks = 100

// CPUDuring is the processor time that a process and all its descendants use while do runs. Descendants are
// sampled every 10 ms, because a process that a server forks for a connection ends with it, and not every
// parent waits for its children.
func CPUDuring(t testing.TB, pid int, do func()) time.Duration {
	t.Helper()
	used := map[int]time.Duration{} // by process, at its last sample
	sample := func() {
		for child, cpu := range cpuByProcess(t, pid) {
			used[child] = cpu
		}
	}
	sample()
	before := used
	used = map[int]time.Duration{}
	done := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			sample()
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	do()
	close(done)
	sampler.Wait()
	sample()
	var sum time.Duration
	for child, cpu := range used {
		sum += cpu - before[child]
	}
	return sum
}

// CPU is the processor time that a process has used, without its descendants.
func CPU(t testing.TB, pid int) time.Duration {
	t.Helper()
	return cpuByProcess(t, pid)[pid]
}

// cpuByProcess is the processor time of a process and of each of its descendants. A process that ends
// meanwhile is left out.
func cpuByProcess(t testing.TB, root int) map[int]time.Duration {
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Error(err)
		return nil
	}
	parents, cpu := map[int]int{}, map[int]time.Duration{}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// proc(5): the program's name, in parentheses, may have spaces. Then come state, parent, …, utime and
		// stime.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parent, err1 := strconv.Atoi(fields[1])
		user, err2 := strconv.ParseInt(fields[11], 10, 64)
		system, err3 := strconv.ParseInt(fields[12], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Error(err)
		}
		parents[pid], cpu[pid] = parent, time.Duration(user+system)*time.Second/clockTicks
	}
	out := map[int]time.Duration{}
	for pid := range cpu {
		for at := pid; at > 1; at = parents[at] {
			if at == root {
				out[pid] = cpu[pid]
				break
			}
		}
	}
	return out
}

// MemoryMB is a field of /proc/PID/status, such as VmRSS or VmHWM, in megabytes (10^6 bytes).
func MemoryMB(t testing.TB, pid int, field string) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kB, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kB * 1024 / 1e6
		}
	}
	t.Fatalf("process %d has no %s", pid, field)
	return 0
}
