#!/bin/sh
# Makes the built-in clip that `shoal publish` loops when it is given no file.
#
#   ./generate.sh            writes v360.mp4 v240.mp4 v144.mp4 audio.mp4 beside this script
#
# Needs ffmpeg with libx264, libass and libfreetype, awk, and the DejaVu fonts.
#
# The clip is 24 s because that is exact in both clocks: 600 frames at 25/s and 1125 AAC frames of
# 1024 samples at 48 kHz, so no track drifts however often it loops. Every GOP is 2 s and closed;
# no B-frames, so decode time equals presentation time and the loop joins without an edit list.
# The fish swim, and the notes sound, with periods that divide 24 s: the seam cannot be seen or heard.
set -eu
cd "$(dirname "$0")"

FPS=25
LOOP_S=24
FRAMES=$((FPS * LOOP_S))
AAC_FRAMES=$((LOOP_S * 48000 / 1024))
FONT=${FONT:-/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf}
MONO=${MONO:-/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# Fifteen fish in three colours (the swarms, the ISPs), drawn as vectors: one event per fish and frame.
awk -v frames="$FRAMES" -v fps="$FPS" '
function clock(f,  cs) { cs = int(f * 100 / fps + 0.5); return sprintf("0:00:%02d.%02d", int(cs / 100), cs % 100) }
function px(k, u) { return 320 + 232 * cos(u) + 26 * cos(2 * u + k) }
function py(k, u) { return 176 + 78 * sin(u * (1 + k % 2)) + 26 * sin(3 * u + 2.1 * k) }
BEGIN {
    tau = 6.283185307
    print "[Script Info]\nScriptType: v4.00+\nPlayResX: 640\nPlayResY: 360\n"
    print "[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, OutlineColour, BackColour, Bold, Italic, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding"
    print "Style: F,DejaVu Sans,20,&H00FFFFFF,&H00000000,&H00000000,0,0,1,0,0,5,0,0,0,1\n"
    print "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text"
    split("5CB8FF D9E36B 8A7BFF", colour, " ")
    fish = "m 0 0 b 10 -11 30 -11 42 0 b 30 11 10 11 0 0 m 4 0 l -13 -10 b -8 -4 -8 4 -13 10 l 4 0"
    for (k = 0; k < 15; k++) for (f = 0; f < frames; f++) {
        u = tau * (f / frames * (1 + k % 3 % 2) + int(k / 3) / 29 + (k % 3) / 3)
        x = px(k, u); y = py(k, u)
        dx = px(k, u + 0.01) - x; dy = py(k, u + 0.01) - y
        angle = -atan2(dy, dx) * 360 / tau
        wag = 6 * sin(tau * (f / fps * 1.5 + k / 5))
        size = 62 + 9 * (k % 5)
        printf "Dialogue: %d,%s,%s,F,,0,0,0,,{\\an5\\pos(%.2f,%.2f)\\frz%.2f\\fscx%d\\fscy%d\\1c&H%s&\\alpha&H20&\\p1}%s{\\p0}\n", \
            k, clock(f), clock(f + 1), x, y, angle + wag, size, size, colour[k % 3 + 1], fish
    }
}' > "$WORK/fish.ass"

# video WIDTH HEIGHT KBIT_S NAME
video() {
    ffmpeg -hide_banner -loglevel error -y \
        -f lavfi -i "gradients=s=$1x$2:r=$FPS:d=$LOOP_S:n=2:c0=0x0b3a5e:c1=0x04121f:x0=0:y0=0:x1=0:y1=$2:speed=0.00001" \
        -vf "subtitles=$WORK/fish.ass,\
drawtext=fontfile=$FONT:text=Shoal:fontsize=h/9:fontcolor=white:x=h/18:y=h/20,\
drawtext=fontfile=$FONT:text='$1x$2  $3 kbit/s':fontsize=h/17:fontcolor=0xffd166:x=w-tw-h/18:y=h/14,\
drawbox=x=0:y=ih*0.80:w=iw:h=ih*0.20:color=black@0.45:t=fill,\
drawtext=fontfile=$MONO:text='%{pts\\:hms}':fontsize=h/8:fontcolor=white:x=h/18:y=h*0.842,\
drawtext=fontfile=$MONO:text='frame %{eif\\:n\\:d\\:3}':fontsize=h/14:fontcolor=0x8fd3ff:x=w-tw-h/18:y=h*0.865,\
format=yuv420p" \
        -frames:v "$FRAMES" -an -c:v libx264 -preset veryslow -tune animation -profile:v main \
        -bf 0 -refs 3 -g $((2 * FPS)) -keyint_min $((2 * FPS)) -sc_threshold 0 -flags +cgop \
        -b:v "$3k" -maxrate "$(($3 * 5 / 4))k" -bufsize "$(($3 * 2))k" -threads 1 \
        -color_primaries bt709 -color_trc bt709 -colorspace bt709 -bitexact -map_metadata -1 \
        -movflags +cmaf+empty_moov+default_base_moof+frag_keyframe+skip_trailer -video_track_timescale 12800 \
        -f mp4 "$4.mp4"
}

# Three loops are encoded and the middle one kept: its first frame overlaps what the last one plays.
audio() {
    tone='0.10*sin(2*PI*(110+55*mod(floor(t/6),2))*t)*(0.6+0.4*sin(2*PI*t/8))'
    note='0.16*exp(-5*mod(t,1))*sin(2*PI*(440+110*mod(floor(t),4))*t)'
    ffmpeg -hide_banner -loglevel error -y -f lavfi -i "aevalsrc='$tone+$note':s=48000:d=$((3 * LOOP_S + 1)):c=mono" \
        -c:a aac -b:a 40k -bitexact -f adts "$WORK/audio.aac"
    # By way of a plain MP4, as a fragmented one is begun before the decoder's configuration is known.
    ffmpeg -hide_banner -loglevel error -y -i "$WORK/audio.aac" -c:a copy -bitexact \
        -bsf:a aac_adtstoasc -f mp4 "$WORK/audio.mp4"
    ffmpeg -hide_banner -loglevel error -y -i "$WORK/audio.mp4" -c:a copy -bitexact -map_metadata -1 \
        -bsf:a "noise=amount=0:drop='lt(n\\,$AAC_FRAMES)+gte(n\\,$((2 * AAC_FRAMES)))',setts=ts=N*1024:duration=1024" \
        -movflags +cmaf+empty_moov+default_base_moof+skip_trailer -frag_duration 2000000 -f mp4 audio.mp4
}

video 640 360 300 v360
video 426 240 120 v240
video 256 144 56 v144
audio
ls -l ./*.mp4
