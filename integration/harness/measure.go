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

// MedianTimes calls all functions once in each of several rounds, and returns the median time of each
// function, in their order. Because the calls alternate, whatever slows the machine for a while slows all
// functions.
func MedianTimes(rounds int, functions ...func()) []time.Duration {
	times := make([][]time.Duration, len(functions))
	for round := range rounds {
		for offset := range functions {
			i := (offset + round) % len(functions) // each round begins with another function
			start := time.Now()
			functions[i]()
			times[i] = append(times[i], time.Since(start))
		}
	}
	medians := make([]time.Duration, len(functions))
	for i, ofFunction := range times {
		slices.Sort(ofFunction)
		medians[i] = ofFunction[len(ofFunction)/2]
	}
	return medians
}

// Measurement is one line of the table in docs/benchmarks.md: what Threshold needs (Ours) and what another
// program needs for the same (Peer). Each alone depends on the speed of the machine, so targets are for their
// ratio.
type Measurement struct {
	What       string  // for example "tsh ssh node true, loopback"
	Unit       string  // of Ours and Peer: "ms", "MB/s", "s/GB"
	Ours, Peer float64 // Peer 0 means that nothing was measured beside Ours
	Bound      float64 // the target for Ours/Peer, or for Ours without Peer; 0 means there is none
	AtLeast    bool    // Bound is a minimum; otherwise a maximum
}

// Ratio returns the value to which Bound applies: Ours/Peer, or Ours if nothing was measured beside it.
func (m Measurement) Ratio() float64 {
	if m.Peer == 0 {
		return m.Ours
	}
	return m.Ours / m.Peer
}

// Holds reports whether the target is met.
func (m Measurement) Holds() bool {
	if m.AtLeast {
		return m.Ratio() >= m.Bound
	}
	return m.Ratio() <= m.Bound
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
	for _, measurement := range list {
		// The testing package runs a benchmark several times, with more iterations each time: the last
		// counts.
		isEarlier := func(old Measurement) bool { return old.What == measurement.What }
		measurements.list = append(slices.DeleteFunc(measurements.list, isEarlier), measurement)
		b.Log(measurement.line())
	}
}

// line returns the row of the table: what, ratio, Threshold, peer, target, and whether the target is met.
// Cells that have no value are empty.
func (m Measurement) line() string {
	verdict := "holds"
	if !m.Holds() {
		verdict = "NOT YET"
	}
	sign := "≤"
	if m.AtLeast {
		sign = "≥"
	}
	ours, peer := formatNumber(m.Ours)+" "+m.Unit, formatNumber(m.Peer)+" "+m.Unit
	switch {
	case m.Bound == 0: // no target
		return fmt.Sprintf("| %s | | %s | | | |", m.What, ours)
	case m.Peer == 0: // nothing to compare with
		return fmt.Sprintf("| %s | | %s | | %s %s | %s |", m.What, ours, sign, formatNumber(m.Bound), verdict)
	}
	const format = "| %s | %.2f | %s | %s | %s %.2f | %s |"
	return fmt.Sprintf(format, m.What, m.Ratio(), ours, peer, sign, m.Bound, verdict)
}

// formatNumber prints a number with three significant digits, or all digits before the point.
func formatNumber(v float64) string {
	digits := 0
	for limit := 100.0; digits < 3 && v < limit; limit /= 10 {
		digits++
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// WriteMeasurements replaces the table in the page at path by the measurements of this run. The table stands
// between two marks in HTML comments. If nothing was measured, the page stays as it is. It returns an error
// if the page has no marks.
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
	before, rest, hasBegin := strings.Cut(string(page), begin)
	_, after, hasEnd := strings.Cut(rest, end)
	if !hasBegin || !hasEnd {
		return fmt.Errorf("%s has no marks for the table of measurements", filepath.Base(path))
	}
	var table strings.Builder
	table.WriteString("| what | ratio | Threshold | peer | target | |\n|---|---|---|---|---|---|\n")
	for _, measurement := range measurements.list {
		table.WriteString(measurement.line() + "\n")
	}
	return os.WriteFile(path, []byte(before+begin+table.String()+end+after), 0o644)
}

// clockTicks is USER_HZ, the unit of processor time in /proc, in ticks a second.
const clockTicks = 100

// CPUDuring calls do and returns the processor time that the process pid and all its descendants used
// meanwhile. It samples them every 10 ms: a server may fork a process for each connection, which has ended,
// with its times, when do returns. What a process uses between its last sample and its end is missing.
func CPUDuring(t testing.TB, pid int, do func()) time.Duration {
	t.Helper()
	before := cpuByProcess(t, pid)
	used := map[int]time.Duration{} // by process, at its last sample
	sample := func() {
		for process, cpu := range cpuByProcess(t, pid) {
			used[process] = cpu
		}
	}
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
	for process, cpu := range used {
		sum += cpu - before[process] // 0 for a process that did not exist before
	}
	return sum
}

// CPU returns the processor time that a process has used since its start, without its descendants.
func CPU(t testing.TB, pid int) time.Duration {
	t.Helper()
	return cpuByProcess(t, pid)[pid]
}

// cpuByProcess returns the processor time of the process root and of each of its descendants, by process id.
// A process that ends while it reads /proc is left out.
func cpuByProcess(t testing.TB, root int) map[int]time.Duration {
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Error(err)
		return nil
	}
	parents, cpu := map[int]int{}, map[int]time.Duration{}
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil { // not a process
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil { // it has ended
			continue
		}
		// proc(5): the program's name, in parentheses, may have spaces. After it come the state, the parent,
		// and later utime and stime.
		afterName := strings.LastIndexByte(string(stat), ')') + 1
		fields := strings.Fields(string(stat[afterName:]))
		parent, err1 := strconv.Atoi(fields[1])
		user, err2 := strconv.ParseInt(fields[11], 10, 64)
		system, err3 := strconv.ParseInt(fields[12], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Error(err)
		}
		parents[pid], cpu[pid] = parent, time.Duration(user+system)*time.Second/clockTicks
	}
	ofTree := map[int]time.Duration{}
	for pid := range cpu {
		for ancestor := pid; ancestor > 1; ancestor = parents[ancestor] {
			if ancestor == root {
				ofTree[pid] = cpu[pid]
				break
			}
		}
	}
	return ofTree
}

// MemoryMB returns a field of /proc/PID/status, such as VmRSS or VmHWM, in megabytes (10^6 bytes).
func MemoryMB(t testing.TB, pid int, field string) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kibibytes, err := strconv.ParseFloat(strings.Fields(rest)[0], 64) // proc(5) calls them kB
			if err != nil {
				t.Fatal(err)
			}
			return kibibytes * 1024 / 1e6
		}
	}
	t.Fatalf("process %d has no %s", pid, field)
	return 0
}
