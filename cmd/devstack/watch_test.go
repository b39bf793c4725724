package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestOneDecisionReadsAsAStory hears what one decision says in the order of the wire, twice.
func TestOneDecisionReadsAsAStory(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := newWatcher(&screen{out: &out})
	for range 2 {
		for _, m := range [][2]string{
			{"consult.out.queue.cardiology", `{"id":"e1.0","action":"PATIENT_ADDED","entry":{"appointmentId":"apt-0001"}}`},
			{"consult.out.notification.dr-a", `{"id":"e1.1","type":"PATIENT_READY","title":"Patient Checked In","priority":"high","appointmentId":"apt-0001"}`},
			{"consult.out.consultation.dr-a.pat-101", `{"id":"e1.2","action":"STATE_CHANGED","appointmentId":"apt-0001","from":"scheduled","state":"checked-in"}`},
			{"consult.out.page.sms.dr-b", `{"id":"e2.1","type":"EMERGENCY_ESCALATION","title":"URGENT","departmentId":"cardiology","round":2}`},
			{"consult.out.emergency.cardiology", `{"id":"e2.0","action":"EMERGENCY_ACCEPTED","userId":"dr-b","appointmentId":"apt-0002"}`},
			{"consult.out.consultation.dr-a.pat-101", `{"id":"e3.0","action":"STATE_CHANGED","appointmentId":"apt-0001","from":"checked-in","state":"left-without-being-seen"}`},
		} {
			w.hear(&nats.Msg{Subject: m[0], Data: []byte(m[1])})
		}
		w.flush()
	}
	want := `
  apt-0001    dr-a          pat-101   scheduled → checked-in            queue.cardiology: 1
  apt-0001      → dr-a: Patient Checked In (high)
  PAGE        cardiology    → dr-b: URGENT (round 2, by sms)
  EMERGENCY   cardiology    accepted by dr-b                            in apt-0002
  apt-0001    dr-a          pat-101   checked-in → left-without-being-seen  queue.cardiology: 1
`
	if got := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d`).ReplaceAllString(out.String(), ""); got != want[1:] {
		t.Errorf("got\n%s\nwant%s", got, want)
	}
}

func TestScreenColoursTerminalsOnlyAndBreaksLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	plain := &screen{out: &out}
	plain.line(red, "é%s %s", strings.Repeat("x", 100), strings.Repeat("y", 100)+" z ")
	plain.line(red, "%s", strings.Repeat("x", 200))
	want := "é" + strings.Repeat("x", 100) + "\n" +
		continued + strings.Repeat("y", maxLine-len(continued)) + "\n" +
		continued + strings.Repeat("y", 100-(maxLine-len(continued))) + " z\n" +
		strings.Repeat("x", maxLine) + "\n" + continued + strings.Repeat("x", maxLine-len(continued)) + "\n" +
		continued + strings.Repeat("x", 200-2*maxLine+len(continued)) + "\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	(&screen{out: &out, colour: true}).line(red, "page ")
	if got := out.String(); got != "\x1b[1;31mpage\x1b[0m\n" {
		t.Errorf("%q", got)
	}
}
