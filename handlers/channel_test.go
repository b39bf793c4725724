package handlers

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"consultd/states"
)

func TestChannelNamesAndTheirPartsAreInverse(t *testing.T) {
	for name, want := range map[string]Channel{
		"waiting-room.dr-smith":                        {Class: ClassWaitingRoom, Provider: "dr-smith"},
		"consultation.dr-smith.patient-abc123":         {Class: ClassConsultation, Provider: "dr-smith", Patient: "patient-abc123"},
		"consultation.dr-smith.patient-abc123.video":   {Class: ClassVideo, Provider: "dr-smith", Patient: "patient-abc123"},
		"consultation.dr-smith.patient-abc123.files":   {Class: ClassFiles, Provider: "dr-smith", Patient: "patient-abc123"},
		"emergency.oncology":                           {Class: ClassEmergency, Department: "oncology"},
		"queue.cardiology":                             {Class: ClassQueue, Department: "cardiology"},
		"notification.dr-smith":                        {Class: ClassNotification, User: "dr-smith"},
		"presence.providers.cardiology":                {Class: ClassPresence, Department: "cardiology"},
		"audit.clinic-north":                           {Class: ClassAudit, Organization: "clinic-north"},
		"page.sms.dr-smith":                            {Class: ClassPage, Transport: "sms", User: "dr-smith"},
		"waiting-room." + strings.Repeat("a", 32):      {Class: ClassWaitingRoom, Provider: strings.Repeat("a", 32)},
		"consultation.A_Z-09.video":                    {Class: ClassConsultation, Provider: "A_Z-09", Patient: "video"},
		"consultation.dr-smith.patient-abc123-pnpresx": {Class: ClassConsultation, Provider: "dr-smith", Patient: "patient-abc123-pnpresx"},
	} {
		got, err := ParseChannel(name)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
		if got.Name() != name {
			t.Errorf("%s comes back as %s", name, got.Name())
		}
	}
}

func TestChannelNamesThatAreNone(t *testing.T) {
	for name, want := range map[string]error{
		"":                                     ErrUnknownChannel,
		"waitingroom.dr-smith":                 ErrUnknownChannel,
		"presence.patients.cardiology":         ErrUnknownChannel,
		"chat.dr-smith":                        ErrUnknownChannel,
		"waiting-room":                         ErrBadIdentifier,
		"waiting-room.":                        ErrBadIdentifier,
		"waiting-room.dr.smith":                ErrBadIdentifier,
		"waiting-room.dr smith":                ErrBadIdentifier,
		"waiting-room.dr*":                     ErrBadIdentifier,
		"waiting-room.dr-smith-pnpres":         ErrBadIdentifier,
		"consultation.dr-smith":                ErrBadIdentifier,
		"consultation..p":                      ErrBadIdentifier,
		"consultation.d.p.":                    ErrBadIdentifier,
		"consultation.d.p.chat":                ErrBadIdentifier,
		"consultation.dr.smith.p.video":        ErrBadIdentifier,
		"consultation.d.p.video.extra":         ErrBadIdentifier,
		"emergency." + strings.Repeat("a", 33): ErrBadIdentifier,
		"notification.zoë":                     ErrBadIdentifier,
		"page.sms":                             ErrBadIdentifier,
	} {
		c, err := ParseChannel(name)
		if !errors.Is(err, want) || c != (Channel{}) {
			t.Errorf("%q: %+v, %v; want %v", name, c, err, want)
		}
		for _, part := range strings.Split(name, ".")[1:] {
			if len(part) > 3 && err != nil && strings.Contains(err.Error(), part) {
				t.Errorf("%q: the error quotes the name: %v", name, err)
			}
		}
	}
}

func TestKeyAndLaneOfSubjects(t *testing.T) {
	for subject, want := range map[string]struct {
		key  string
		ok   bool
		lane states.Lane
	}{
		"consult.in.waiting-room.dr-smith":             {"dr-smith", true, states.LaneNormal},
		"consult.in.consultation.dr-smith.pat-1":       {"dr-smith", true, states.LaneNormal},
		"consult.in.consultation.dr-smith.pat-1.video": {"dr-smith", true, states.LaneNormal},
		"consult.in.emergency.cardiology":              {"cardiology", true, states.LaneEmergency},
		"consult.log.timer.dr-smith":                   {"dr-smith", true, states.LaneNormal},
		"consult.urgent.timer.cardiology":              {"cardiology", true, states.LaneEmergency},
		"consult.urgent.oncall.cardiology":             {"cardiology", true, states.LaneEmergency},
		"consult.log.rules":                            {"", true, states.LaneNormal},
		"consult.urgent.rules":                         {"", true, states.LaneEmergency},
		"consult.log.oncall.cardiology":                {"consult.log.oncall.cardiology", false, states.LaneNormal},
		"consult.in.waiting-room.dr.smith":             {"consult.in.waiting-room.dr.smith", false, states.LaneNormal},
		"consult.in.emergency.a.b":                     {"consult.in.emergency.a.b", false, states.LaneEmergency},
		"consult.in.queue.cardiology":                  {"consult.in.queue.cardiology", false, states.LaneNormal},
		"consult.in.unreadable":                        {"consult.in.unreadable", false, states.LaneNormal},
		"something.else":                               {"something.else", false, states.LaneNormal},
	} {
		if key, ok := Key(subject); key != want.key || ok != want.ok {
			t.Errorf("Key(%s) = %q, %v", subject, key, ok)
		}
		if lane := LaneOf(subject); lane != want.lane {
			t.Errorf("LaneOf(%s) = %s", subject, lane)
		}
	}
}

func TestEveryNameThatPubNubCanCarryEntersALog(t *testing.T) {
	for _, channel := range []string{
		"waiting-room.dr-smith", "waiting-room.dr.smith", "consultation.d.p.video", "emergency.cardiology", "queue.cardiology",
		"waiting-room.a b", "waiting-room.*", "waiting-room.>", "waiting-room.", "waiting-room..x", "emergency", "", ".", "chat.room", "page.sms.x",
		"waiting-room.\x00", "waiting-room.é", "waiting-room." + strings.Repeat("x", 500), "consult.in.x",
	} {
		subject := InSubject(channel)
		stream := EmergencySubjects()
		if LaneOf(subject) == states.LaneNormal {
			stream = LogSubjects()
		}
		if !slices.ContainsFunc(stream, func(pattern string) bool { return covers(pattern, subject) }) {
			t.Errorf("channel %q becomes subject %q, which the log of its lane does not take", channel, subject)
		}
	}
}

func TestNamesThatAreNoSubjectsShareOne(t *testing.T) {
	for _, channel := range []string{"waiting-room.é", "waiting-room.a b", "waiting-room.*", "waiting-room.>", "waiting-room.\x7f", "chat.room", ""} {
		if got := InSubject(channel); got != unreadable {
			t.Errorf("%q becomes %s", channel, got)
		}
	}
}

func TestEverythingSaidHasAStream(t *testing.T) {
	for channel, stream := range map[string][]string{
		Notification("u"): OutSubjects(), Queue("d"): OutSubjects(), Consultation("p", "q"): OutSubjects(), Audit("o"): OutSubjects(),
		Emergency("d"): PageSubjects(), Page("sms", "u"): PageSubjects(), "!not_json": DeadSubjects(), ">emergency.d": EmergencySubjects(),
	} {
		subject, intoLog := MessageSubject(channel)
		if !slices.ContainsFunc(stream, func(pattern string) bool { return covers(pattern, subject) }) {
			t.Errorf("%s becomes %s, which its stream does not take", channel, subject)
		}
		if intoLog != strings.HasPrefix(channel, ">") {
			t.Errorf("%s: into the log: %v", channel, intoLog)
		}
	}
	for _, subject := range []string{AuditEntrySubject, AuditCheckpointSubject} {
		if !covers(AuditSubjects()[0], subject) {
			t.Errorf("the audit stream does not take %s", subject)
		}
	}
	if got := DeadSubject("NOT_JSON"); got != "consult.dead.not_json" {
		t.Errorf("dead letters of NOT_JSON go to %s", got)
	}
	if name, ok := OutChannel(OutSubject("queue.d")); !ok || name != "queue.d" {
		t.Errorf("out and back: %q", name)
	}
}

// covers says whether a NATS subject pattern takes a subject.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		if token == ">" {
			return len(s) > i && !slices.Contains(s, "")
		}
		if i >= len(s) || s[i] == "" || token != "*" && token != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}
